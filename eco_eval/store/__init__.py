"""Named bytes, kept whole: a local directory today, a Hub dataset with the same paths beside it."""

from eco_eval.store.base import ABSENT, ANY, Store, Version, slug
from eco_eval.store.hub import HubStore
from eco_eval.store.local import LocalStore
from eco_eval.store.records import parse_record, read_record
from eco_eval.store.table import Table

__all__ = [
    "ABSENT",
    "ANY",
    "HubStore",
    "LocalStore",
    "Store",
    "Table",
    "Version",
    "parse_record",
    "read_record",
    "slug",
]
