"""Images in, batches out: sources, splits, the packed store, views and the loader.

Names are imported when they are first used, because sources, splits and the store need no torch and
predicting with an exported network must not import it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapling.data.broken import BadImage
    from sapling.data.cache import clear_cache, list_cache
    from sapling.data.groups import with_groups
    from sapling.data.listing import Columns
    from sapling.data.loader import Dataset, load_data
    from sapling.data.packed import PackedStore, cache_folder, open_store
    from sapling.data.pixels import prepare_image
    from sapling.data.sources import VIEW_PRESETS, Item, Source, open_source
    from sapling.data.splitfile import read_split, split_text
    from sapling.data.splits import Split, make_split
    from sapling.data.views import PRESETS, ViewSpec, centre_view, make_views

_HOMES = {
    "broken": ("BadImage",),
    "cache": ("clear_cache", "list_cache"),
    "groups": ("with_groups",),
    "listing": ("Columns",),
    "loader": ("Dataset", "load_data"),
    "packed": ("PackedStore", "cache_folder", "open_store"),
    "pixels": ("prepare_image",),
    "sources": ("VIEW_PRESETS", "Item", "Source", "open_source"),
    "splitfile": ("read_split", "split_text"),
    "splits": ("Split", "make_split"),
    "views": ("PRESETS", "ViewSpec", "centre_view", "make_views"),
}

__all__ = [
    "PRESETS",
    "VIEW_PRESETS",
    "BadImage",
    "Columns",
    "Dataset",
    "Item",
    "PackedStore",
    "Source",
    "Split",
    "ViewSpec",
    "cache_folder",
    "centre_view",
    "clear_cache",
    "list_cache",
    "load_data",
    "make_split",
    "make_views",
    "open_source",
    "open_store",
    "prepare_image",
    "read_split",
    "split_text",
    "with_groups",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"sapling.data.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
