"""What is known of a model before it is loaded, and what a machine takes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eco_eval.types import Declared, ModelRef, Record

Kind = Literal["chat", "base", "adapter"]


class Limits(Record):
    """What this machine takes; None is no limit.

    max_bytes: of the weights, with an adapter those of its base too. max_parameters: likewise. architectures: those
    that the engine can load. strangers: the name comes from somebody else, so that it names neither a path of this
    machine nor a repository that only its owner's token can see.
    """

    max_bytes: int | None = Field(default=None, gt=0)
    max_parameters: int | None = Field(default=None, gt=0)
    architectures: frozenset[str] | None = None
    strangers: bool = False


class File(Record):
    """A file that would be loaded, and its size in bytes."""

    name: str
    size: int


class Intake(Record):
    """A model before it is loaded: what it is, and what it says of itself.

    `kind`: `chat` has a chat template, `base` none, `adapter` is a LoRA for `base`, which is pinned and checked like
    any model. `files` are those an engine would get; `parameters` and `bytes` are of its weights by their own headers,
    without those of a base. `dtype` and `architecture` of an adapter are its base's. `scanned`: the Hub has finished
    looking for malware and found none; False for a local folder. `path`: where it is on this machine; None while the
    Hub's weights are not downloaded.
    """

    name: str
    source: Literal["hub", "local"]
    revision: str
    kind: Kind
    dtype: str
    architecture: str
    files: tuple[File, ...]
    parameters: int
    bytes: int
    licence: str = ""
    gated: bool = False
    private: bool = False
    scanned: bool = False
    declared: Declared = Field(default_factory=Declared)
    base: Intake | None = None
    path: str | None = Field(default=None, exclude=True)

    @property
    def ref(self) -> ModelRef:
        """The exact reference: of an adapter, its own weights without the base's."""
        return ModelRef(name=self.name, source=self.source, revision=self.revision, dtype=self.dtype, path=self.path)
