"""What is this model? Resolve a name to one exact set of weights, or refuse with a reason.

`inspect` knows a model without its weights, `fetch` downloads what it found, `resolve` does both, and `weights_of` says
what a model on this machine weighs. The controls are one file each: `files` (names, sizes, code), `weights` (headers of
safetensors), `config`, `templates`, `adapters`; `hub` is the edge to the Hub, `card` what a model says of itself.
"""

from eco_eval.candidates.card import declared
from eco_eval.candidates.disk import make_room
from eco_eval.candidates.files import HUB_ID, WANTED, check_files
from eco_eval.candidates.intake import fetch, inspect, resolve, weights_of
from eco_eval.candidates.records import File, Intake, Limits
from eco_eval.candidates.templates import check_template

__all__ = [
    "HUB_ID",
    "WANTED",
    "File",
    "Intake",
    "Limits",
    "check_files",
    "check_template",
    "declared",
    "fetch",
    "inspect",
    "make_room",
    "resolve",
    "weights_of",
]
