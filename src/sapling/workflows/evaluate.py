"""Measure a trained network on a split; make the ONNX file of a run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sapling.config import RunConfig, build
from sapling.data.layout import printable
from sapling.data.loader import Dataset, load_data
from sapling.data.openings import Opening, fingerprint_of_test, record_opening
from sapling.data.sources import Columns, open_source
from sapling.data.splitfile import read_split
from sapling.data.splits import Split, whole
from sapling.data.table import Faults, read_table
from sapling.deploy.export import check_parity, export_onnx, measure_onnx
from sapling.deploy.predict import check_bands_known
from sapling.engine.device import limit_threads, resolve_device
from sapling.errors import DataError, ModelError, SaplingError, UsageError
from sapling.evaluation.metrics import classification_metrics, collect_logits
from sapling.models.load import ensemble_folders, load_model
from sapling.models.tapped import TappedModel
from sapling.record import SPLIT_FILE, now, read_json
from sapling.run_folders import load_run_config
from sapling.screen import Screen
from sapling.teachers.ensemble import Ensemble
from sapling.workflows.dataset import open_dataset
from sapling.workflows.networks import parts_of
from sapling.workflows.ship import first_images

SPLIT_SETTINGS = ("val_share", "test_share", "split_seed", "group_pattern", "on_bad_image", "split_file")
SplitName = Literal["train", "val", "test"]


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: SplitName | Literal["all"] | None = None,
    batch_size: int = 256,
    device: str = "auto",
    threads: int | None = None,
    screen: Screen | None = None,
) -> dict[str, Any]:
    """Metrics of a network on a split of ``data``, through the same pixels as in training, in float32.

    Args:
        model: run folder, model folder or .safetensors; ``teacher/`` of a run with several teachers is their mean.
        data: folder, zip, CSV, ``digits`` or the name of a public set.
        split: which part; ``all`` for all images, for data the network has never seen. By default ``test``, and
            ``all`` where nothing is split and the network's run knows none of the images by name.
        batch_size: images per forward.
        device: ``auto``, ``cpu``, ``cuda``.
        threads: CPU threads; None leaves them.
        screen: where progress is shown.

    Returns:
        ``classification_metrics`` with ``split`` and ``model`` added.

    Raises:
        SaplingError: the model or the data cannot be used, or their classes differ.
    """
    screen = screen or Screen(quiet=True)
    home = None if str(model).startswith(("hf-hub:", "local-dir:")) else run_of(Path(model))
    limit_threads(threads)
    where = resolve_device(device)
    several = [load_model(part) for part in parts_of(str(model))]
    loaded = several[0]
    fit = {(one.classes, one.preprocess.img_size, one.preprocess.store_size, one.preprocess.bands) for one in several}
    if len(fit) > 1:
        raise ModelError(
            "these networks have other classes, or read images in other ways: here they cannot answer together",
            where=str(model),
            remedy="evaluate them one by one; as teachers of a run they can stand together",
        )
    is_new = split is None and home is not None and _is_new(home, data)
    split = split or ("all" if is_new else "test")
    # A part of the run's own data is cut as then; other data may have other columns, or none.
    columns = settings_of(home).data.columns if home and split != "all" else None
    if loaded.multi_label and Path(data).suffix.lower() == ".csv":
        columns = replace(columns or Columns(), multi_label=True)
    source = open_source(data, columns=columns)
    if source.multi_label != loaded.multi_label:
        has, given = ("several labels", "one class") if loaded.multi_label else ("one class", "several labels")
        raise DataError(
            f"the network gives {has} per image, the data {given}",
            where=str(data),
            remedy="a CSV file with labels such as a;b" if loaded.multi_label else "a network for several labels",
        )
    size = loaded.preprocess
    check_bands_known(size.num_channels, size.bands, where=str(model))
    column = columns_of(source.classes, loaded.classes, where=str(data))
    with screen.bar("decoding images", None) as bar:
        dataset = load_data(
            source,
            img_size=size.img_size,
            store_size=size.store_size,
            split=whole if split == "all" else None,
            pixels=size.bands,
            progress=bar.reach,
            **({} if split == "all" else split_settings(home)),
        )
    if (is_new or split != "all") and home and (home / SPLIT_FILE).is_file() and trained_on(home, dataset):
        dataset = replace(dataset, split=own_split(home, dataset))  # which no images under new names have
    networks = [TappedModel(one.model, one.preprocess) for one in several]
    tapped = (Ensemble(networks) if len(networks) > 1 else networks[0]).to(where)
    part: SplitName = "test" if split == "all" else split
    if split == "test":
        opening = Opening(now(), "evaluate", Path(model).resolve().name)
        record_opening(fingerprint_of_test(dataset.source, dataset.split.test), opening)
    logits, labels = collect_logits(tapped, dataset.eval_batches(part, batch_size=batch_size, device=where))
    metrics = classification_metrics(logits, in_columns(labels, column, len(loaded.classes)), len(loaded.classes))
    warnings = [note for note in dataset.source.notes if note.startswith("Skipped")]
    if split in ("all", "train") and home and trained_on(home, dataset):
        warnings.append("the network was trained on some of these images: these figures say nothing of new ones")
    if split != "all" and home and not trained_on(home, dataset):
        warnings.append("these are not the images of its run as they were: some may have been trained on")
    if is_new:
        known = "the run of the network knows no image of these names"
        warnings.append(f"nothing is split, and {known}: all were measured (copies may have been trained on)")
    if len(source.classes) < len(loaded.classes):
        missing = [c for c in loaded.classes if c not in source.classes]
        warnings.append(f"no images of {len(missing)} of its classes: {', '.join(missing[:5])}")
    if home and (note := _shipped_control(home, Path(model))):
        warnings.append(note)
    return {"model": str(model), "split": split, "classes": list(loaded.classes), "warnings": warnings, **metrics}


def _is_new(home: Path, data: str | Path) -> bool:
    """Whether data are not split, and hold no image whose name stands in the split of a run."""
    if not (home / SPLIT_FILE).is_file() or not Path(data).exists():
        return False
    try:
        items = open_source(data).items
        rows, _ = read_table(home / SPLIT_FILE, Faults(home / SPLIT_FILE), needed=("key", "split"), any_bytes=True)
    except SaplingError:  # said where they are opened
        return False
    known = {row.cells["key"] for row in rows}
    return all(item.split is None and item.key not in known for item in items)


def columns_of(names: Sequence[str], classes: Sequence[str], *, where: str) -> NDArray[np.int64]:
    """Position in ``classes`` of each of ``names``: data may hold some of a network's classes, but no others.

    Raises:
        DataError: the network does not know a class of the data.
    """
    unknown = [n for n in names if n not in classes]
    if unknown:
        raise DataError(
            f"the network does not know {', '.join(map(repr, unknown[:3]))}" + (", .." if len(unknown) > 3 else ""),
            where=where,
            allowed=", ".join(classes[:20]) + (", .." if len(classes) > 20 else ""),
        )
    return np.array([list(classes).index(n) for n in names], dtype=np.int64)


def in_columns(labels: NDArray[np.int64], column: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Labels ``[n]`` or ``[n,k]`` of the data as those of the network; ``column`` is of :func:`columns_of`."""
    if labels.ndim == 1:
        return column[labels]
    targets = np.zeros((len(labels), num_classes), dtype=np.int64)
    targets[:, column] = labels
    return targets


def trained_on(home: Path, dataset: Dataset) -> bool:
    """Whether a run was trained on the very images of ``dataset``."""
    path = home / "data.json"
    return path.is_file() and read_json(path).get("fingerprint") == dataset.store.fingerprint


def own_split(home: Path, dataset: Dataset) -> Split:
    """The split that a run used of these very images; it kept together what shows one picture.

    Raises:
        DataError: the images have other names now, so that nobody can tell which of them were trained on.
    """
    try:
        return read_split(home / SPLIT_FILE, dataset.source)
    except DataError as error:
        raise DataError(
            "these are the images that the network's run used, but under other names: which of them it was trained "
            f"on cannot be told ({error.what})",
            where=dataset.source.location,
            remedy="give them their names back, or measure on other images with --split all",
        ) from error


def split_settings(home: Path | None) -> dict[str, Any]:
    """How a run cut its data, so that its test images are the same here."""
    data = settings_of(home).data if home else None
    return {k: getattr(data, k) for k in SPLIT_SETTINGS} if data else {}


def settings_of(home: Path) -> RunConfig:
    """The settings of a run; of a split that was given it reads its own copy."""
    config, own = build(load_run_config(home)), home / SPLIT_FILE
    if config.data.split_file is None or not own.is_file():
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"split_file": str(own)})})


def run_of(model: Path) -> Path | None:
    """The run folder that a model's path is, or lies in (one or two folders up), or None."""
    for place in (model, *model.resolve().parents[:3]):
        file = place / "config.yaml"
        if file.is_file() and "\nfingerprint: " in file.read_text(encoding="utf-8", errors="replace"):
            return place
    return None


def _shipped_control(home: Path, model: Path) -> str:
    """What a reader must know of the student of a run that is not the distilled one."""
    file = home / "results.json"
    if model.resolve() not in (home.resolve(), home.resolve() / "student") or not file.is_file():
        return ""
    content = read_json(file)
    shipped = content.get("shipped") if isinstance(content, dict) else None
    if not isinstance(shipped, dict) or shipped.get("arm") != "control":
        return ""
    return f"this is {printable(str(shipped.get('member')))}: the run ships its control, which was better on validation"


def export(run: str | Path, *, output: str | Path | None = None, screen: Screen | None = None) -> dict[str, Any]:
    """Write the ONNX file of a run's student (or teacher folder), checked on real validation images.

    Args:
        run: run folder, or a model folder inside one.
        output: where to; default ``model.onnx`` in the model's folder.
        screen: where progress is shown.

    Returns:
        Path, size, latency, largest difference of logits.
    """
    screen = screen or Screen(quiet=True)
    folder = Path(run)
    if not folder.exists():
        raise UsageError(f"there is no run at {str(run)!r}", allowed="a run folder, or a model folder inside one")
    home = run_of(folder)
    if home is None:
        raise UsageError(
            "export needs the run that the model belongs to: its images check the file",
            where=str(run),
            allowed="a run folder, or a model folder inside one",
        )
    if home == folder:
        folder = home / "student"
    if not (folder / "config.json").is_file() and not ensemble_folders(folder):
        raise ModelError("the run has no student yet", where=str(run), remedy="let the run finish first")
    loaded = load_model(folder)
    path = Path(output) if output else folder / "model.onnx"
    images = first_images(open_dataset(settings_of(home), screen, pixels=loaded.preprocess.bands), 64)
    export_onnx(loaded, path)
    return {"path": str(path), **check_parity(loaded, path, images), **measure_onnx(path, images)}
