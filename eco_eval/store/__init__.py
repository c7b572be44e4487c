"""Named bytes, kept whole: a local directory today, a Hub dataset with the same paths beside it."""

from eco_eval.settings import Settings
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
    "board_store",
    "parse_record",
    "read_record",
    "slug",
]


def board_store(settings: Settings) -> LocalStore | HubStore:
    """What the board shows and the service publishes to: the Hub dataset where there is one, else the data folder."""
    if settings.hub_repo is None:
        return LocalStore(settings.data_dir)
    return HubStore(settings.hub_repo, token=settings.hub_token, cache=settings.cache_dir / "hub")
