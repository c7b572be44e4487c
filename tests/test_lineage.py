"""What a model declares of its origin, and whether judge and candidate are of one family."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eco_eval.lineage import FAMILIES, families, same_family
from eco_eval.types import MAX_NAME, MAX_NAMES, Declared

NOTHING = Declared()
QWEN_JUDGE = "Qwen/Qwen3-30B-A3B-Instruct-2507"


def made_from(*bases: str, model_type: str = "", name_or_path: str = "") -> Declared:
    return Declared(base_models=bases, model_type=model_type, name_or_path=name_or_path)


class TestFamilies:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen"),
            ("Qwen/QwQ-32B", "qwen"),
            ("Qwen/CodeQwen1.5-7B", "qwen"),
            ("Tongyi-Zhiwen/QwenLong-L1-32B", "qwen"),
            ("unsloth/qwen2.5-7b-instruct-bnb-4bit", "qwen"),
            ("qwen2.5:7b-instruct", "qwen"),
            ("meta-llama/Llama-3.1-8B-Instruct", "llama"),
            ("meta-llama/Meta-Llama-3-8B", "llama"),
            ("meta-llama/Llama-2-7b-chat-hf", "llama"),
            ("codellama/CodeLlama-7b-hf", "llama"),
            ("lmsys/vicuna-7b-v1.5", "llama"),
            ("mistralai/Mistral-7B-Instruct-v0.3", "mistral"),
            ("mistralai/Mixtral-8x7B-v0.1", "mistral"),
            ("mistralai/Ministral-8B-Instruct-2410", "mistral"),
            ("mistralai/Magistral-Small-2506", "mistral"),
            ("mistralai/Devstral-Small-2507", "mistral"),
            ("BioMistral/BioMistral-7B", "mistral"),
            ("google/gemma-3-27b-it", "gemma"),
            ("google/medgemma-27b-text-it", "gemma"),
            ("google/gemma-3n-E4B-it", "gemma"),
            ("openai/gpt-oss-20b", "gpt"),
            ("gpt-4o-mini-2024-07-18", "gpt"),
            ("gpt-4.1", "gpt"),
            ("openai/gpt-5-mini", "gpt"),
            ("deepseek-ai/DeepSeek-V3.1", "deepseek"),
            ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek qwen"),
            ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "deepseek llama"),
            ("microsoft/phi-4", "phi"),
            ("microsoft/Phi-3.5-mini-instruct", "phi"),
            ("microsoft/Phi3-mini", "phi"),
            ("ibm-granite/granite-3.3-8b-instruct", "granite"),
            ("allenai/OLMo-2-1124-7B-Instruct", "olmo"),
            ("allenai/OLMoE-1B-7B-0924", "olmo"),
            ("HuggingFaceTB/SmolLM3-3B", "smollm"),
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm"),
            ("BSC-LT/salamandra-7b-instruct", "salamandra"),
            ("BSC-LT/ALIA-40b", "salamandra"),
            ("swiss-ai/Apertus-8B-Instruct-2509", "apertus"),
            ("tiiuae/Falcon3-7B-Instruct", "falcon"),
            ("tiiuae/falcon-mamba-7b", "falcon"),
            ("CohereLabs/aya-expanse-8b", "cohere"),
            ("CohereLabs/c4ai-command-r7b-12-2024", "cohere"),
            ("01-ai/Yi-1.5-9B-Chat", "yi"),
            ("zai-org/GLM-4.5-Air", "glm"),
            ("THUDM/chatglm3-6b", "glm"),
            ("moonshotai/Kimi-K2-Instruct", "kimi"),
            ("anthropic/claude-sonnet-4", "claude"),
            ("nvidia/Llama-3.1-Nemotron-70B-Instruct-HF", "llama nemotron"),
            ("openbmb/MiniCPM-Llama3-V-2_5", "llama"),
            # The owner does not count, nor a stem within a word, nor an architecture converted to.
            ("HiTZ/latxa-7b-v1", ""),
            ("qwen/model", ""),
            ("mistralai/thing", ""),
            ("cognitivecomputations/dolphin-2.9", ""),
            ("Phind/Phind-v2", ""),
            ("someone/Model-7B-Llamafied", ""),
            ("someone/LLaMAfied", ""),
            ("someone/phishing-detector", ""),
            ("someone/yield-model", ""),
            ("someone/himalaya-3b", ""),
            ("openai-community/gpt2", ""),
            ("EleutherAI/gpt-neox-20b", ""),
            ("EleutherAI/gpt-j-6b", ""),
            ("command-line-helper", ""),
            ("toy-best", ""),
            ("", ""),
            # Written in other ways.
            ("https://huggingface.co/Qwen/Qwen2.5-7B/", "qwen"),
            ("Qwen/Qwen2.5-7B@llama-branch", "qwen"),
            ("accounts/fireworks/models/llama-v3p1-8b-instruct", "llama"),
            ("someone\\models\\gemma", "gemma"),
            ("ＱＷＥＮ２-7b", "qwen"),
            ("my_qwen_model", "qwen"),
            ("my.gpt.oss.20b", "gpt"),
            (" Qwen 2 ", "qwen"),
        ],
    )
    def test_a_name_says_its_families(self, name: str, expected: str) -> None:
        assert families([name]) == frozenset(expected.split())

    @pytest.mark.parametrize(
        ("model_type", "expected"),
        [
            ("qwen2", "qwen"),
            ("qwen3_moe", "qwen"),
            ("llama", "llama"),
            ("mistral3", "mistral"),
            ("gemma3_text", "gemma"),
            ("gemma3n_text", "gemma"),
            ("gpt_oss", "gpt"),
            ("deepseek_v3", "deepseek"),
            ("phi3", "phi"),
            ("phimoe", "phi"),
            ("granitemoehybrid", "granite"),
            ("olmoe", "olmo"),
            ("cohere2", "cohere"),
            ("glm4_moe", "glm"),
            ("falcon_h1", "falcon"),
            ("smollm3", "smollm"),
            ("kimi_k25", "kimi"),
            ("apertus", "apertus"),
            ("gpt2", ""),
            ("gpt_neox", ""),
            ("", ""),
        ],
    )
    def test_an_architecture_says_its_family_where_no_name_does(self, model_type: str, expected: str) -> None:
        assert families(["owner/model"], model_type) == frozenset(expected.split())
        assert families(["owner/gemma-7b"], model_type) == {"gemma"}

    def test_several_names_say_what_each_says(self) -> None:
        assert families(["a/qwen", "b/none", "c/llama"]) == {"qwen", "llama"}
        assert families([]) == frozenset()

    def test_the_known_families_are_written_as_names_are_compared(self) -> None:
        for family, stems in tomllib.loads(FAMILIES.read_text()).items():
            assert stems == sorted(set(stems)), family
            for stem in stems:
                assert stem == stem.casefold().strip()
                assert families([f"owner/{stem}-7b"]) == {family}

    @given(st.text(st.characters(exclude_characters="@"), max_size=300))
    def test_any_text_is_a_name(self, text: str) -> None:
        assert families([text, f"{text}/qwen"]) >= {"qwen"}
        assert families([], text) == families([text])


class TestSameFamily:
    @pytest.mark.parametrize(
        ("name", "declared", "expected"),
        [
            ("Qwen/Qwen2.5-7B-Instruct", NOTHING, "name: Qwen/Qwen2.5-7B-Instruct"),
            ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", NOTHING, "name: deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
            ("owner/eco-7b", made_from("Qwen/Qwen2.5-7B"), "base_model: Qwen/Qwen2.5-7B"),
            ("owner/merge", made_from("google/gemma-2-9b", "Qwen/QwQ-32B"), "base_model: Qwen/QwQ-32B"),
            ("owner/eco-7b", made_from(name_or_path="Qwen/Qwen2.5-7B"), "config: _name_or_path Qwen/Qwen2.5-7B"),
            ("owner/eco-7b", made_from(model_type="qwen2"), "config: model_type qwen2"),
            ("llama-3.1-8b", made_from("Qwen/Qwen2.5-7B"), "base_model: Qwen/Qwen2.5-7B"),
            # A declared base or a name that says a family says more than an architecture.
            ("owner/eco-7b", made_from("owner/own-base", model_type="qwen2"), None),
            ("owner/eco-llama", made_from(model_type="qwen2"), None),
            ("owner/eco-7b", made_from(model_type="qwen2", name_or_path="google/gemma-7b"), None),
            ("owner/eco-7b", made_from(model_type="llama"), None),
            ("meta-llama/Llama-3.1-8B", NOTHING, None),
            ("Qwen/worldmodel", NOTHING, None),
            ("toy-best", NOTHING, None),
            ("", NOTHING, None),
        ],
    )
    def test_a_judge_of_qwen(self, name: str, declared: Declared, expected: str | None) -> None:
        assert same_family(name, declared, QWEN_JUDGE, NOTHING) == expected
        assert same_family(name, declared, QWEN_JUDGE, made_from(model_type="qwen3_moe")) == expected

    def test_the_architecture_of_the_judge_says_nothing(self) -> None:
        """Both have the architecture of Llama, like many models that have nothing in common."""
        llama = made_from(model_type="llama")
        assert same_family("BSC-LT/salamandra-7b", llama, "01-ai/Yi-1.5-9B", llama) is None
        assert same_family("owner/a", llama, "owner/b", llama) is None
        assert same_family("owner/a", llama, "meta-llama/Llama-3.3-70B", llama) == "config: model_type llama"

    def test_the_bases_of_the_judge_say_its_family(self) -> None:
        judge = made_from("meta-llama/Llama-2-70b", model_type="llama")
        assert same_family("meta-llama/Llama-3.1-8B", NOTHING, "owner/prometheus", judge) is not None
        assert same_family("owner/a", made_from(model_type="llama"), "owner/prometheus", judge) is not None
        latxa = made_from("meta-llama/Llama-2-7b-hf")
        assert (
            same_family("HiTZ/latxa-7b-v1", latxa, "owner/prometheus", judge) == "base_model: meta-llama/Llama-2-7b-hf"
        )
        assert same_family("google/gemma-7b", NOTHING, "owner/prometheus", judge) is None

    @pytest.mark.parametrize(
        ("name", "declared", "judge_name", "judge", "expected"),
        [
            ("owner/a", NOTHING, "owner/a", NOTHING, "name: owner/a"),
            ("Owner/A", NOTHING, "owner/a@main", NOTHING, "name: Owner/A"),
            ("owner/a", made_from("owner/judge"), "owner/judge", NOTHING, "base_model: owner/judge"),
            ("owner/a", made_from("hf.co/Owner/Judge/"), "owner/judge", NOTHING, "base_model: hf.co/Owner/Judge/"),
            ("owner/base", NOTHING, "owner/judge", made_from("https://huggingface.co/owner/base"), "name: owner/base"),
            (
                "owner/a",
                made_from("x/y", "owner/base"),
                "owner/judge",
                made_from("owner/base"),
                "base_model: owner/base",
            ),
            ("owner/a", made_from(name_or_path="o/b"), "owner/judge", made_from("o/b"), "config: _name_or_path o/b"),
            ("owner/a", made_from("other/base"), "owner/judge", made_from("owner/base"), None),
            ("owner/a", NOTHING, "other/a", NOTHING, None),
            ("", NOTHING, "", NOTHING, None),
            (" ", NOTHING, "/", NOTHING, None),
            ("@main", NOTHING, "/", made_from("@main"), None),
        ],
    )
    def test_one_model_one_base_or_one_made_from_the_other_are_related_without_a_known_family(
        self, name: str, declared: Declared, judge_name: str, judge: Declared, expected: str | None
    ) -> None:
        assert same_family(name, declared, judge_name, judge) == expected

    def test_a_name_in_letters_that_look_alike_says_nothing(self) -> None:
        """A limit: what is declared is not checked, and whoever wants to hide an origin can."""
        assert same_family("owner/Qwеn-7b", NOTHING, QWEN_JUDGE, NOTHING) is None

    NAMES = st.text(max_size=30) | st.sampled_from(["Qwen/Qwen3-8B", "a/b", "meta-llama/Llama-3-8B", "", "/", "@"])
    DECLARED = st.builds(Declared, base_models=st.lists(NAMES, max_size=3), model_type=NAMES, name_or_path=NAMES)

    @given(NAMES, DECLARED, NAMES, DECLARED)
    def test_the_evidence_is_something_the_candidate_says(
        self, name: str, declared: Declared, judge_name: str, judge: Declared
    ) -> None:
        found = same_family(name, declared, judge_name, judge)
        said = [name, *declared.base_models, declared.name_or_path, declared.model_type]
        assert found is None or any(text and found.endswith(text) for text in said)


def test_a_declaration_holds_no_more_than_it_should() -> None:
    for fields in ({"base_models": ["a"] * (MAX_NAMES + 1)}, {"datasets": ["a" * (MAX_NAME + 1)]}, {"model_type": 7}):
        with pytest.raises(ValidationError):
            Declared.model_validate(fields)
