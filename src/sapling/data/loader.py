"""Opens a data set whole: images, split, packed store, views."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sapling.bands import Bands, band_options
from sapling.data.broken import OnBadImage, check_mode, most_skipped, without
from sapling.data.dataset import Dataset, Part, to_float
from sapling.data.groups import with_groups
from sapling.data.listing import Columns
from sapling.data.mixspec import MixSpec
from sapling.data.packed import open_store
from sapling.data.sizes import choose_sizes
from sapling.data.sources import VIEW_PRESETS, Source, open_source
from sapling.data.splitfile import read_split
from sapling.data.splits import Split, make_split
from sapling.data.survey import settle_bands
from sapling.data.viewspec import checked_options, preset
from sapling.errors import ConfigError

__all__ = ["Dataset", "Part", "load_data", "to_float"]


def load_data(
    source: str | Path | Source,
    *,
    img_size: int | None = None,
    store_size: int | None = None,
    views: str | None = None,
    view_options: Mapping[str, Any] | None = None,
    view_seed: int = 0,
    num_views: int = 0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    mix_share: float = 1.0,
    val_share: float = 0.15,
    test_share: float = 0.15,
    split_seed: int = 0,
    group_pattern: str | None = None,
    columns: Columns | None = None,
    on_bad_image: OnBadImage = "skip",
    split_file: str | Path | None = None,
    split: Callable[[Source], Split] | None = None,
    bands: Iterable[int] | str | None = None,
    value_range: tuple[float, float] | None = None,
    pixels: Bands | Literal["auto"] | None = "auto",
    sample_power: float | None = None,
    check_size: Callable[[int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Open images, split them, pack them and choose their views.

    Args:
        source: what :func:`sapling.data.sources.open_source` takes, or what it returned.
        img_size: side of the views; default: the pictures' own short side, rounded down to a multiple of 32,
            32 to 224.
        store_size: side of the stored pictures; default: 15 % more, where the pictures have that.
        views: name of a preset; default: what suits the source.
        view_options: single settings of :class:`sapling.data.viewspec.ViewSpec` that differ from the preset.
        view_seed: seed of the views.
        num_views: V, views per image; 0 means a fresh one every epoch.
        mixup: see :class:`sapling.data.mixspec.MixSpec`.
        cutmix: see there.
        mix_share: see there.
        val_share: see :func:`sapling.data.splits.make_split`.
        test_share: see there.
        split_seed: see there.
        group_pattern: see :func:`sapling.data.groups.with_groups`.
        columns: names of the columns where a CSV file lists the images; not for a source that is open already.
        on_bad_image: ``skip`` leaves out up to 1 % of the images where they cannot be used; ``fail`` does not.
        split_file: see :func:`sapling.data.splitfile.read_split`; the settings of splits above are not used then.
        split: makes the split of the images; the settings of splits above are not used then.
        bands: which bands become channels, from 1, or ``rgb``; see :func:`sapling.data.survey.settle_bands`.
        value_range: the values that become 0 and 255; see there.
        pixels: what was settled before and is kept with a network: its ``Preprocess.bands`` (None: ordinary pictures).
            The two settings above are not used then. ``auto`` settles it by them.
        sample_power: see :class:`Dataset`.
        check_size: is called with ``img_size`` before any image is decoded; raises what is wrong with it.
        progress: is called with (images done, images in all) while the store is built.

    Raises:
        DataError: images, labels or splits that cannot be used.
        ConfigError: settings out of range.
    """
    # Settings first: a typing error must not show after minutes of packing.
    spec = preset(views or VIEW_PRESETS[0], view_options)
    mix = MixSpec(mixup, cutmix, mix_share)
    _check_sizes(img_size, store_size, num_views)
    check_mode(on_bad_image)
    opened = source if isinstance(source, Source) else open_source(source, columns=columns)
    if group_pattern is not None:
        opened = with_groups(opened, group_pattern)

    def divide(source: Source, num_unlisted: int = 0, skipped: Collection[str] = ()) -> Split:
        if split is not None:
            return split(source)
        if split_file is not None:
            return read_split(split_file, source, num_unlisted=num_unlisted, skipped=skipped)
        return make_split(source, val_share=val_share, test_share=test_share, seed=split_seed)

    parts = divide(opened, num_unlisted=most_skipped(len(opened.items), on_bad_image))
    img_size, size, native = choose_sizes(opened, img_size, store_size)
    _check_sizes(img_size, size, num_views)
    if check_size is not None:
        check_size(img_size)
    if views is None:
        spec = preset(opened.default_views, view_options)
    if pixels == "auto":
        pixels, remarks = settle_bands(opened, sample=parts.train, bands=bands, value_range=value_range)
        options = opened.options + band_options(bands, value_range)
        opened = replace(opened, notes=(*opened.notes, *remarks), options=options)
    store = open_store(opened, size, bands=pixels, on_bad_image=on_bad_image, progress=progress)
    spec.check_channels(store.images.shape[3])
    if store.skipped or split_file is not None:
        # As if they had never been there: in no split, and no position beside its image.
        opened = without(opened, store.skipped)
        parts = divide(opened, skipped={image.key for image in store.skipped})
    return Dataset(
        source=opened,
        store=store,
        split=parts,
        img_size=img_size,
        views=views or opened.default_views,
        spec=spec,
        view_seed=view_seed,
        num_views=num_views,
        native=native,
        view_options=checked_options(view_options),
        mix=mix,
        sample_power=sample_power,
    )


def _check_sizes(img_size: int | None, store_size: int | None, num_views: int) -> None:
    if img_size is not None and img_size < 8:
        raise ConfigError(f"img_size is {img_size}", allowed="8 or more")
    if store_size is not None and store_size < (img_size or 8):
        raise ConfigError(f"store_size is {store_size}", allowed=f"img_size ({img_size or 8}) or more")
    if num_views < 0:
        raise ConfigError(f"num_views is {num_views}", allowed="0 (a fresh view every epoch) or more")
