"""What is known of a model before it is loaded, and what a machine takes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eco_eval.types import Declared, ModelRef, Record, Weights

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
    without those of a base. `dtype`, `architecture` and `quantisation` (the method, empty where there is none) of an
    adapter are its base's. `scanned`: the Hub has finished looking for malware and found none; False for a local
    folder. `path`: where it is on this machine; None while the Hub's weights are not downloaded.
    """

    name: str
    source: Literal["hub", "local"]
    revision: str
    kind: Kind
    dtype: str
    architecture: str
    quantisation: str = ""
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
        """The exact reference, with that of an adapter's base."""
        return ModelRef(
            name=self.name,
            source=self.source,
            revision=self.revision,
            dtype=self.dtype,
            base=self.base.ref if self.base is not None else None,
            path=self.path,
        )

    @property
    def weights(self) -> Weights:
        """What it weighs: an adapter with its base."""
        parts = [self] if self.base is None else [self, self.base]
        return Weights(
            kind=self.kind,
            architecture=self.architecture,
            parameters=sum(part.parameters for part in parts),
            bytes=sum(part.bytes for part in parts),
            dtype=self.dtype,
            quantisation=self.quantisation,
            licence=self.licence,
        )
