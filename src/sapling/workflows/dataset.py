"""The data of a run: opened by its settings, and recorded in its folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from sapling.bands import Bands, positions
from sapling.config import RunConfig
from sapling.data.layout import printable
from sapling.data.leaks import WARNED, check_leaks
from sapling.data.loader import Dataset, load_data
from sapling.data.sources import Source, open_source
from sapling.data.splitfile import split_text
from sapling.data.splits import Split, make_split
from sapling.errors import ModelError, RunError
from sapling.models.load import Preprocess, read_preprocess, weights_alone
from sapling.record import SPLIT_FILE, Run, atomic_file, read_json, write_json
from sapling.screen import Screen
from sapling.workflows.networks import check_sizes, is_given, parts_of
from sapling.workflows.scores import check_labels


def open_dataset(
    config: RunConfig,
    screen: Screen,
    *,
    pixels: Bands | Literal["auto"] | None = "auto",
    source: Source | None = None,
    task: str | None = None,
) -> Dataset:
    """The data of the settings, with a bar while the store is built.

    Args:
        config: the settings.
        screen: where the bar is shown.
        pixels: see :func:`sapling.data.loader.load_data`. By itself (``auto``), and where the settings do not say
            otherwise, pictures are read as a given teacher reads them: both networks see the same numbers.
        source: the images, where they are listed already.
        task: ``train`` or ``distill``: the networks that it trains must be able to read images of this size.
    """
    d = config.data
    teacher = parts_of(config.teacher.model)[0]
    is_recorded = is_given(config.teacher.model) and weights_alone(teacher) is None
    if pixels == "auto" and d.bands is None and d.value_range is None and is_recorded:
        pixels = read_preprocess(teacher).bands or "auto"
    with screen.bar("decoding images", None) as bar:
        return load_data(
            source if source is not None else d.source,
            img_size=d.img_size,
            store_size=d.store_size,
            views=None if d.views == "auto" else d.views,
            view_options=d.view_options,
            view_seed=d.view_seed,
            num_views=d.num_views,
            mixup=d.mixup,
            cutmix=d.cutmix,
            mix_share=d.mix_share,
            val_share=d.val_share,
            test_share=d.test_share,
            split_seed=d.split_seed,
            group_pattern=d.group_pattern,
            columns=d.columns if source is None else None,
            on_bad_image=d.on_bad_image,
            split_file=d.split_file,
            bands=d.bands,
            value_range=d.value_range,
            pixels=pixels,
            sample_power=config.train.imbalance_power if config.train.imbalance == "sampler" else None,
            check_size=(lambda img_size: check_sizes(config, task, img_size)) if task else None,
            progress=bar.reach,
        )


def check_bands(preprocess: Preprocess, data: Dataset, *, where: str) -> None:
    """Refuse a network that reads other bands, or their values otherwise, than the data gives them.

    It may read some of them only, in any order.

    Raises:
        ModelError: it does.
    """
    theirs, ours = preprocess.bands, data.store.bands
    # A network from elsewhere keeps no record: the number of channels is all there is to compare.
    if theirs == ours or (theirs is None and preprocess.num_channels == data.num_channels):
        return
    if theirs is not None and ours is not None and positions(theirs, ours) is not None:
        return
    shown = [
        str(b) if b is not None else f"{n} channels of ordinary pictures"
        for b, n in ((theirs, preprocess.num_channels), (ours, data.num_channels))
    ]
    same = " (the ranges differ)" if shown[0] == shown[1] else ""
    raise ModelError(
        f"the teacher reads {shown[0]}; the data gives {shown[1]}{same}",
        where=where,
        remedy="leave --bands and --value-range away: the pictures are then read as the teacher reads them"
        if theirs is not None
        else "a teacher that was trained on these bands",
    )


def open_checked(config: RunConfig, screen: Screen, run: Run | None = None, task: str = "distill") -> Dataset:
    """The data of the settings, after the check for leaks; what shows one picture is kept together in the split.

    Args:
        config: the settings.
        screen: where progress is shown.
        run: the run that is to use them. One that was begun before there was such a check goes on as it began.
        task: what they are for, where there is no run yet.

    Raises:
        DataError: something crosses the split and ``data.allow_leaks`` is not set.
        UsageError: a setting needs one class per image, and there may be several labels.
    """
    listed = open_source(config.data.source, columns=config.data.columns)
    check_labels(config, listed, run.task if run else task)
    data, d = open_dataset(config, screen, source=listed, task=run.task if run else task), config.data
    card = run.path("data.json") if run else None
    if card and card.exists() and not read_json(card).get("leaks"):
        return data

    def recut(source: Source) -> Split:
        return make_split(source, val_share=d.val_share, test_share=d.test_share, seed=d.split_seed)

    with screen.bar("looking for duplicates", None) as bar:
        checked = check_leaks(
            data.source,
            data.split,
            data.store,
            recut=None if d.split_file is not None else recut,
            allow=d.allow_leaks,
            progress=bar.reach,
        )
    checked.stop_unless_allowed()
    return replace(data, source=checked.source, split=checked.split, leaks=checked.leaks)


def data_warnings(data: Dataset) -> list[str]:
    """What a reader must know of the data before the figures."""
    return [*data.source.notes, *(note for note in data.split.notes if note.startswith(WARNED))]


def write_data_card(run: Run, data: Dataset) -> None:
    """Write ``data.json`` and ``split.csv`` and log what is to be known of the data.

    A run that goes on must find the same images in the same splits.

    Raises:
        RunError: the data changed since the run was started.
    """
    path, card = run.path("data.json"), data.card()
    if path.exists():
        before = read_json(path)
        for key, what in (("fingerprint", "images or labels"), ("split_fingerprint", "split")):
            if before.get(key) != card[key]:
                raise RunError(
                    f"the {what} changed since this run was started: its members could not be compared",
                    where=data.source.location,
                    remedy="restore the data, or start again with another --output",
                )
    write_json(path, card)
    with atomic_file(run.path(SPLIT_FILE), "wb") as file:
        file.write(split_text(data.source, data.split))
    for note in (*data.source.notes, *data.split.notes, *data.store.notes):
        run.log(f"data: {note}")
    for image in data.store.skipped:
        run.note(f"data: skipped {printable(image.key)}: {printable(image.reason)}")
