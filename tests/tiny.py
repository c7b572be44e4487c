"""A language model small enough to make in a second, with everything a real one has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_TEXTS = [
    "El río nace en la sierra y baja hasta el mar, donde viven peces, aves y personas.",
    "La respuesta es buena, regular o mala según cómo hable de los animales y las plantas.",
    "¿Qué puedo hacer para gastar menos agua en casa? Cierra el grifo y riega de noche.",
    "The forest is home to wolves, not a store of timber. The answer is good, regular or bad.",
]

_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_model(path: Path, *, chat: bool = True, seed: int = 0, context: int = 1024) -> Path:
    """Save a random Qwen2 of two layers with its own tokenizer, as float32 safetensors.

    Args:
        path: the folder to make.
        chat: whether the tokenizer has a chat template (ChatML).
        seed: of the weights.
        context: longest sequence in tokens.

    Returns:
        The folder.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = _make_tokenizer(chat)
    tokenizer.save_pretrained(path)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        # Wide enough for probabilities far from uniform: a tie would be broken by rounding.
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.to(torch.float32).save_pretrained(path, safe_serialization=True)
    return path


def _make_tokenizer(chat: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(_TEXTS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>" if chat else "<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=_TEMPLATE if chat else None,
    )
