"""Everything that can go wrong, as one tree.

    EcoEvalError(key, **values)
      InputError            someone can fix it; shown in their language; exit code 2
        SubmissionRejected  the model cannot be evaluated as it is
        InstrumentError     an instrument, rubric or pinned file is wrong
        DataError           a data file is wrong: file, line, field
      StageError            a boundary broke; recorded with the stage's name; exit code 1
        EngineError         a model server or a model run
        StoreError          reading or writing what is kept
        JudgeError          the judge cannot be used at all
        TooManyUngraded     too few verdicts for a score
      ConflictError         somebody else changed the record first; normal traffic
        Superseded          somebody else has the run now

An error carries a *key* into the interface's text catalogue and the values its message needs, never a sentence:
the same error is read in Spanish or in English. Foreign exceptions are translated once, at the edge where they
occur, and stay reachable as `__cause__`.
"""

from __future__ import annotations


class EcoEvalError(Exception):
    """An error with a message key and values.

    Args:
        key: name of the message in the text catalogue, under `errors`.
        values: what the message names; every value is shown as text.
    """

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key, values)
        self.key = key
        self.values = values

    def __str__(self) -> str:
        details = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"{self.key}({details})"


class InputError(EcoEvalError):
    """Something a person can fix."""


class SubmissionRejected(InputError):
    """The model cannot be evaluated as it is."""


class InstrumentError(InputError):
    """An instrument, a rubric or a pinned file is wrong."""


class DataError(InputError):
    """A data file is wrong; the values name `file` and, where known, `line` and `field`."""


class StageError(EcoEvalError):
    """A boundary broke.

    Args:
        retryable: whether the same attempt may succeed later.
    """

    def __init__(self, key: str, *, retryable: bool = False, **values: object) -> None:
        super().__init__(key, **values)
        self.retryable = retryable


class EngineError(StageError):
    """A model server or a model run failed."""


class StoreError(StageError):
    """What is kept could not be read or written."""


class JudgeError(StageError):
    """The judge cannot be used at all."""


class TooManyUngraded(StageError):
    """More verdicts are missing than the instrument allows."""


class ConflictError(EcoEvalError):
    """Somebody else changed the record first."""


class Superseded(ConflictError):
    """Another worker took the run over, or somebody stopped it: whoever gets this drops what it does."""
