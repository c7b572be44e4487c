"""Headers of safetensors files, read without the weights and believed only where they agree with the file.

The format (https://huggingface.co/docs/safetensors/index#format): eight bytes with the length N of the header, little
end first; N bytes of JSON with the type, shape and place of every tensor; the tensors, back to back, to the end.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eco_eval.errors import SubmissionRejected

MAX_HEADER = 25_000_000
"""Longest header read, in bytes: what the Hub's client reads too. The format itself allows 100 MB."""

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64"), 64),
}
_FIELDS = {"dtype", "shape", "data_offsets"}
_FIRST = 100_000
_MAX_SIZE = 2**63
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

Read = Callable[[int, int], bytes]
"""`read(start, length)`: that part of a file."""


class Tensor(NamedTuple):
    """One tensor of a file: its type as the format names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def local_reader(path: Path) -> Read:
    """Reads parts of a file on this machine."""

    def read(start: int, length: int) -> bytes:
        with path.open("rb") as handle:
            handle.seek(start)
            return handle.read(length)

    return read


def read_tensors(model: str, file: str, size: int, read: Read) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Args:
        size: of the whole file, in bytes.
        read: gives parts of it; asked for the header alone.

    Raises:
        SubmissionRejected: `model.disguised` for a pickle or an archive under this name, `model.bad_header` for what is
            no header, `model.lying_header` for one that does not describe the file.
    """
    head = read(0, min(size, 8 + _FIRST))
    length = int.from_bytes(head[:8], "little")
    if head.startswith(_PICKLES) and (length > MAX_HEADER or head[8:9] != b"{"):
        raise SubmissionRejected("model.disguised", model=model, file=file)
    if len(head) < 8 or length > min(MAX_HEADER, size - 8):
        raise SubmissionRejected("model.bad_header", model=model, file=file)
    raw = head[8 : 8 + length]
    if len(raw) < length:
        raw += read(len(head), 8 + length - len(head))
    try:
        header = _parse(raw)
    except (ValueError, RecursionError) as error:
        raise SubmissionRejected("model.bad_header", model=model, file=file) from error
    liar = _first_lie(header, size - 8 - length)
    if liar is not None:
        raise SubmissionRejected("model.lying_header", model=model, file=file, tensor=ascii(liar[:100])[1:-1])
    return {name: Tensor(of["dtype"], tuple(of["shape"])) for name, of in header.items()}


def _parse(raw: bytes) -> dict[str, Any]:
    """The tensors' descriptions, each with its three fields and nothing else.

    Raises:
        ValueError, RecursionError: it is no header.
    """
    if not raw.startswith(b"{"):
        raise ValueError("does not begin with {")
    header: dict[str, Any] = json.loads(
        raw.decode(), object_pairs_hook=_once, parse_int=_natural, parse_constant=_natural
    )
    notes = header.pop("__metadata__", {})
    sound = isinstance(notes, dict) and all(isinstance(note, str) for note in notes.values())
    if not sound or not all(map(_is_description, header.values())):
        raise ValueError("not what the format describes")
    # Half of a surrogate pair is text to Python and to nobody else.
    "".join([*header, *notes, *notes.values()]).encode()
    return header


def _is_description(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != _FIELDS or not isinstance(value["dtype"], str):
        return False
    lists = (value["shape"], value["data_offsets"])
    if not all(isinstance(numbers, list) and all(type(n) is int for n in numbers) for numbers in lists):
        return False
    return len(value["data_offsets"]) == 2 and len(value["shape"]) <= 64


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _natural(text: str) -> int:
    # Not Python's own reading: it takes -0 and numbers of thousands of digits.
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) >= _MAX_SIZE:
        raise ValueError(text[:30])
    return int(text)


def _first_lie(header: Mapping[str, Any], size: int) -> str | None:
    """The first tensor whose place in the data, of `size` bytes, is not what it must be; None if all are right."""
    end, last = 0, ""
    for name, of in sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0])):
        start, stop = of["data_offsets"]
        bits = _BITS.get(of["dtype"])
        if bits is None or start != end or not _holds(of["shape"], bits, stop - start):
            return name
        end, last = stop, name
    return None if end == size else last


def _holds(shape: list[int], bits: int, size: int) -> bool:
    total = bits
    for number in shape:
        total *= number
        # The loaders multiply in 64 bits, in this order.
        if total >= _MAX_SIZE:
            return False
    return size >= 0 and total == 8 * size
