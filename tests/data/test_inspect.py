"""The dataset card: everything that is wrong is found and named, and nothing stops the look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sapling.data.findings import SEVERITIES
from sapling.data.inspect import inspect_data
from sapling.data.packed import open_store
from sapling.data.pictures import contact_sheet, data_uris
from sapling.data.sources import open_source
from sapling.errors import ConfigError, DataError
from tests.data.pictures import encoded, picture, write_folder
from tests.data.scenes import scene, split_scenes, write_scenes


def codes(path: Path | str, **settings: object) -> dict[str, str]:
    card = inspect_data(path, **settings).card
    return {finding.code: finding.severity for finding in card.findings}


def test_a_good_folder_has_no_leak_and_no_warning(tmp_path):
    root = write_scenes(tmp_path / "d", each=70)
    card = inspect_data(root).card
    assert [f for f in card.findings if f.severity != "note"] == []
    assert (card.num_images, card.classes, card.kind, card.split) == (140, ("lime", "oak"), "folder", "made here")
    assert {part: sum(counts) for part, counts in card.counts.items()} == {"train": 98, "val": 21, "test": 21}
    assert card.imbalance == 1.04  # 50 and 48 of 98
    assert (card.formats, card.modes) == ({"PNG": 140}, {"RGB": 140})
    assert card.sizes is not None
    assert (card.sizes.short_side.smallest, card.sizes.short_side.median) == (48, 48)
    assert card.sizes.common == ((48, 48, 140),)
    assert (card.img_size, card.store_size) == (32, 37)
    assert [what for what, _ in card.commands] == ["See what a run would do", "Distil"]
    assert card.commands[1][1] == f"sapling distill {root}"


def test_a_later_run_finds_the_same_store(tmp_path):
    inspection = inspect_data(write_scenes(tmp_path / "d"))
    assert inspection.store is not None
    built: list[object] = []
    again = open_store(inspection.source, inspection.store.size, progress=lambda *_: built.append(1))
    assert not built
    assert again.folder == inspection.store.folder


def test_the_card_is_plain_json(tmp_path):
    root = write_scenes(tmp_path / "d")
    scene(3).save(root / "lime" / "other.png")
    (root / "oak" / "broken.jpg").write_bytes(b"")
    text = json.dumps(inspect_data(root).card.as_dict(), allow_nan=False)
    assert json.loads(text)["duplicates"]["pairs"][0]["images"] == ["lime/other.png", "oak/oak03.png"]
    assert json.loads(text)["version"] == 1


@pytest.mark.parametrize("num_broken", [1, 30])
def test_broken_images_are_all_listed_and_stop_nothing(tmp_path, num_broken):
    root = write_scenes(tmp_path / "d", each=60)
    good = (root / "oak" / "oak00.png").read_bytes()
    for k in range(num_broken):
        (root / "oak" / f"x{k:02d}.png").write_bytes((b"", b"text", good[: len(good) // 2])[k % 3])
    card = inspect_data(root).card
    assert [image.key for image in card.broken] == [f"oak/x{k:02d}.png" for k in range(num_broken)]
    assert card.broken[0].reason == "it is not an image"
    assert card.num_images == 120 + num_broken
    assert sum(map(sum, card.counts.values())) == 120
    [finding] = [f for f in card.findings if f.code == "broken-images"]
    assert finding.severity == ("warning" if num_broken == 1 else "error")
    assert finding.examples[0] == "oak/x00.png: it is not an image"
    assert card.channels is not None


def test_only_broken_images_are_listed_as_well(tmp_path):
    files = {f"{name}/{k}.jpg": b"no image" for name in "ab" for k in range(5)}
    inspection = inspect_data(write_folder(tmp_path / "d", files))
    assert len(inspection.card.broken) == 10
    assert inspection.store is None
    assert inspection.card.sizes is None
    assert inspection.card.split == "none"
    assert inspection.card.findings[0].code == "broken-images"
    json.dumps(inspection.card.as_dict())


def test_wrong_endings_are_listed_by_name(tmp_path):
    root = write_scenes(tmp_path / "d")
    for k in range(5):
        (root / "oak" / f"w{k}.jpg").write_bytes(encoded(scene(900 + k)))
    card = inspect_data(root).card
    assert [(w.key, w.format) for w in card.wrong_suffixes] == [(f"oak/w{k}.jpg", "PNG") for k in range(5)]
    [finding] = [f for f in card.findings if f.code == "wrong-suffix"]
    assert finding.examples[0] == "oak/w0.jpg is PNG"


def test_copies_are_listed_with_labels_splits_and_transform(tmp_path):
    root = split_scenes(tmp_path / "d")
    scene(1003).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "test" / "lime" / "again.png")
    inspection = inspect_data(root)
    card = inspection.card
    assert card.split == "given"
    assert card.duplicates.num_crossing == card.duplicates.num_conflicting == card.duplicates.num_transformed == 1
    pair = card.duplicates.pairs[0]
    assert pair["images"] == ["test/lime/again.png", "train/oak/oak03.png"]
    assert (pair["classes"], pair["parts"]) == (["lime", "oak"], ["test", "train"])
    assert (pair["kind"], pair["transform"]) == ("near", "mirrored")
    assert card.findings[0].severity == "leak"
    assert card.num_leaks == 1
    assert "conflicting-labels" in {f.code for f in card.findings}
    assert inspection.clean is not None
    assert "sapling inspect" in card.commands[0][1]


def test_leaks_come_first_and_notes_last(tmp_path):
    root = split_scenes(tmp_path / "d")
    scene(1003).save(root / "test" / "oak" / "again.png")
    (root / "train" / "oak" / "w.jpg").write_bytes(encoded(scene(900)))
    order = [SEVERITIES.index(f.severity) for f in inspect_data(root).card.findings]
    assert order == sorted(order)
    assert order[0] == 0
    assert order[-1] == 3


def test_imbalance_small_classes_and_missing_classes(tmp_path):
    root = write_scenes(tmp_path / "d", classes=("oak",), each=60)
    write_scenes(root, classes=("lime",), each=8)
    found = codes(root)
    assert found["imbalance"] == found["small-classes"] == "warning"
    assert found["few-tests"] == "note"
    root = split_scenes(tmp_path / "e")
    for path in (root / "test" / "lime").iterdir():
        path.unlink()
    assert codes(root)["missing-class"] == "warning"


def test_a_split_that_cannot_be_made_is_a_finding(tmp_path):
    root = write_scenes(tmp_path / "d", classes=("oak",))
    write_scenes(root, classes=("lime",), each=2)
    card = inspect_data(root).card
    [finding] = [f for f in card.findings if f.code == "no-split"]
    assert finding.severity == "error"
    assert "lime (2)" in finding.text
    assert card.split == "none"
    assert sum(card.counts["none"]) == 22


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"kind": "JPEG", "suffix": "jpg"}, "telling-format"),
        ({"mode": "L"}, "telling-mode"),
        ({"side": 64}, "telling-size"),
    ],
)
def test_what_gives_the_class_away_is_told(tmp_path, how, code):
    files = {}
    for k in range(24):
        files[f"oak/{k}.png"] = encoded(scene(k))
        other = scene(100 + k, how.get("side", 48)).convert(how.get("mode", "RGB"))
        files[f"lime/{k}.{how.get('suffix', 'png')}"] = encoded(other, how.get("kind", "PNG"))
    found = codes(write_folder(tmp_path / "d", files))
    assert found[code] == "warning"
    assert {c for c in found if c.startswith("telling")} == {code}


def test_odd_modes_and_looks_are_told(tmp_path):
    root = write_scenes(tmp_path / "d")
    exif = Image.Exif()
    exif[0x0112] = 3
    odd = {
        "oak/deep.png": encoded(Image.fromarray(np.arange(2304, dtype=np.uint16).reshape(48, 48) * 20)),
        "oak/clear.png": encoded(scene(901).convert("RGBA")),
        "oak/print.jpg": encoded(scene(902).convert("CMYK"), "JPEG"),
        "oak/turned.jpg": encoded(scene(903), "JPEG", exif=exif),
        "oak/flat.png": encoded(Image.new("RGB", (48, 48), (9, 9, 9))),
        "oak/tiny.png": encoded(picture(5, 12, 12)),
        "oak/long.png": encoded(picture(6, 400, 40)),
    }
    write_folder(root, odd)
    found = codes(root)
    assert {"16-bit", "transparency", "cmyk", "rotated", "flat", "small-images", "elongated"} <= set(found)


def test_class_names_that_look_alike_are_told(tmp_path):
    root = write_scenes(tmp_path / "d", classes=("red oak", "Red_Oak", "lime"))
    card = inspect_data(root).card
    [finding] = [f for f in card.findings if f.code == "similar-names"]
    assert finding.examples == ("Red_Oak, red oak",)


def test_channels_are_those_of_the_training_images(tmp_path):
    root = tmp_path / "d"
    for part, level in (("train", 51), ("val", 153), ("test", 204)):
        write_scenes(root, part=part)
        for path in (root / part).rglob("*.png"):
            grey = np.asarray(Image.open(path).convert("L")) // 8 + level
            Image.fromarray(np.stack([grey, grey + 10, grey + 20], axis=-1).astype(np.uint8)).save(path)
    inspection = inspect_data(root)
    channels, store = inspection.card.channels, inspection.store
    assert channels is not None
    assert store is not None
    train = np.flatnonzero([key.startswith("train/") for key in store.keys])
    pixels = store.images[train].reshape(-1, 3) / 255.0
    np.testing.assert_allclose(channels.mean, pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(channels.std, pixels.std(0), atol=1e-6)
    assert channels.num_images == len(train) == 40
    assert channels.grey_share == 0


def test_wrong_settings_are_refused(tmp_path):
    root = write_scenes(tmp_path / "d")
    with pytest.raises(DataError, match="there is no data"):
        inspect_data(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="matches no file name"):
        inspect_data(root, group_pattern="xyz(.)")
    with pytest.raises(DataError, match="cannot be read"):
        inspect_data(root, split_file=tmp_path / "none.csv")


def test_a_few_pictures_of_each_class_for_two_and_for_many_classes(tmp_path):
    source = open_source(write_scenes(tmp_path / "d"))
    sheet = contact_sheet(source)
    assert [len(keys) for keys in sheet] == [10, 10]
    assert sheet[0][0] == "lime/lime00.png"
    assert sheet[0][-1] == "lime/lime19.png"
    assert [len(keys) for keys in contact_sheet(source, num_images=6)] == [3, 3]
    assert [len(keys) for keys in contact_sheet(source, num_images=0)] == [1, 1]
    uris = data_uris(open_store(source, 48), [*sheet[0], "not/there.png"], side=16)
    assert list(uris) == sheet[0]
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris.values())
