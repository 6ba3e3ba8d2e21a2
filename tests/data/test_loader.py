from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sapling.data.loader import load_data, to_float
from sapling.data.pixels import prepare_image
from sapling.data.views import PRESETS, centre_view, make_views
from sapling.errors import ConfigError
from tests.data.pictures import class_pictures, encoded, picture, pictures, real, run_python, write_zip

PARTS = ("train", "val", "test")


@pytest.fixture
def data(tmp_path):
    path = write_zip(tmp_path / "a.zip", class_pictures(["ash", "elm", "oak"], each=20, width=40, height=40))
    return load_data(path, views="aerial", view_seed=4)


def order(data, epoch, seed, batch_size=8):
    return torch.cat([b.indices for b in data.train_batches(epoch, batch_size=batch_size, seed=seed)]).tolist()


def test_an_epoch_shows_every_training_image_once(data):
    assert len(data.split.train) == 42
    assert sorted(order(data, 0, 0, batch_size=6)) == data.split.train.tolist()


def test_an_incomplete_last_batch_is_left_out(data):
    batches = list(data.train_batches(0, batch_size=8, seed=0))
    assert [len(batch.labels) for batch in batches] == [8] * 5
    assert data.num_batches(8) == 5


def test_the_order_follows_from_seed_and_epoch(data):
    assert order(data, 3, 1) == order(data, 3, 1)
    assert len({tuple(order(data, epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9
    assert order(data, 0, 1)[:8] != sorted(order(data, 0, 1)[:8])


def test_the_order_is_that_of_pcg64(data):
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 2])))
    assert order(data, 2, 5, batch_size=6) == generator.permutation(data.split.train).tolist()


def test_training_never_sees_validation_or_test(data):
    seen = {index for epoch in range(20) for index in order(data, epoch, 0)}
    assert seen == set(data.split.train.tolist())
    assert not seen & {*data.split.val.tolist(), *data.split.test.tolist()}


def test_labels_belong_to_their_images(data):
    for batch in [*data.train_batches(0, batch_size=8, seed=0), *data.eval_batches("test", batch_size=4)]:
        for index, label in zip(batch.indices.tolist(), batch.labels.tolist(), strict=True):
            assert data.source.items[index].label == label
            assert data.source.items[index].key.startswith(data.classes[label])


def test_pixels_of_evaluation_are_those_of_the_files(data):
    assert (data.img_size, data.store.size) == (32, 37)
    for part in PARTS:
        indices, images = [], []
        for batch in data.eval_batches(part, batch_size=4):
            assert (batch.views == -1).all()
            indices += batch.indices.tolist()
            images.append(batch.images)
        assert indices == data.split.part(part).tolist()
        assert data.labels(part).tolist() == [data.source.items[i].label for i in indices]
        pixels = torch.cat(images)
        for k, index in enumerate(indices):
            whole = prepare_image(data.source.open(data.source.items[index]), 37)
            expected = whole[2:34, 2:34].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            np.testing.assert_array_equal(pixels[k].numpy(), expected)


def test_evaluation_is_the_same_every_time_and_for_every_batch_size(data):
    one = torch.cat([batch.images for batch in data.eval_batches("val", batch_size=1)])
    many = torch.cat([batch.images for batch in data.eval_batches("val", batch_size=7)])
    torch.testing.assert_close(one, many, rtol=0, atol=0)


def test_a_batch_can_be_made_again_from_what_it_says(data):
    for batch in [*data.train_batches(1, batch_size=8, seed=3), *data.eval_batches("val", batch_size=8)]:
        stored = torch.from_numpy(np.array(data.store.images[batch.indices.numpy()]))
        again = make_views(stored, batch.indices, batch.views, spec=PRESETS["aerial"], view_seed=4, img_size=32)
        torch.testing.assert_close(batch.images, again.float() / 255, rtol=0, atol=0)


def test_training_shows_views_and_not_only_the_centre(data):
    batch = next(data.train_batches(0, batch_size=32, seed=0))
    stored = torch.from_numpy(np.array(data.store.images[batch.indices.numpy()]))
    same = (batch.images == centre_view(stored, 32) / 255).flatten(1).all(dim=1)
    assert same.float().mean() < 0.2


def test_fresh_views_without_a_number_of_views(data):
    views = {data.view_number(epoch, seed) for epoch in range(100) for seed in range(100)}
    assert len(views) == 10_000
    assert min(views) >= 0
    assert max(views) < 2**62


def test_views_in_turn_with_a_number_of_views(tmp_path):
    data = load_data("digits", num_views=4)
    for seed in range(5):
        shown = [data.view_number(epoch, seed) for epoch in range(8)]
        assert sorted(shown[:4]) == [0, 1, 2, 3]
        assert shown[4:] == shown[:4]
    assert len({data.view_number(0, seed) for seed in range(30)}) == 4
    batch = next(data.train_batches(6, batch_size=8, seed=2))
    assert set(batch.views.tolist()) == {data.view_number(6, 2)}


def test_memory_formats_hold_the_same_values(data):
    last = next(data.train_batches(0, batch_size=8, seed=0))
    first = next(data.train_batches(0, batch_size=8, seed=0, channels_last=False))
    assert last.images.is_contiguous(memory_format=torch.channels_last)
    assert first.images.is_contiguous()
    torch.testing.assert_close(last.images, first.images, rtol=0, atol=0)
    assert (last.images.dtype, last.labels.dtype, last.indices.dtype) == (torch.float32, torch.int64, torch.int64)
    assert 0 <= last.images.min() < 0.1 < 0.9 < last.images.max() <= 1


def test_to_float_divides_by_255():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    np.testing.assert_array_equal(to_float(values).numpy().ravel(), expected)
    assert values.dtype == torch.uint8


def test_the_card_is_json_and_says_what_matters(data):
    card = json.loads(json.dumps(data.card(), ensure_ascii=False))
    assert card["classes"] == ["ash", "elm", "oak"]
    assert card["counts"] == {"train": [14] * 3, "val": [3] * 3, "test": [3] * 3}
    assert card["split"] == {"train": 42, "val": 9, "test": 9, "fingerprint": data.split.fingerprint}
    assert card["fingerprint"] == data.store.fingerprint
    assert (card["native_size"], card["store_size"], card["img_size"]) == (40, 37, 32)
    expected = {"name": "aerial", "options": {}, "shift": 0.125, "flip": False, "dihedral": True, "scale": None}
    assert expected.items() <= card["views"].items()
    assert (card["views"]["view_seed"], card["views"]["num_views"]) == (4, 0)
    assert card["mix"] == {"mixup": 0.0, "cutmix": 0.0, "share": 1.0}
    assert card["notes"] == ["Cut from all images, stratified by class, seed 0: 15 % for test and 15 % for val."]


@pytest.mark.parametrize(("side", "img_size"), [(8, 32), (40, 32), (64, 64), (150, 128), (700, 224)])
def test_the_default_image_size(tmp_path, side, img_size):
    files = {f"{name}/{k}.png": encoded(picture(k, side, side + 3)) for name in "ab" for k in range(3)}
    data = load_data(write_zip(tmp_path / "a.zip", files))
    assert data.img_size == img_size
    assert next(data.eval_batches("test", batch_size=2)).images.shape[2:] == (img_size, img_size)


def test_digits():
    data = load_data("digits")
    assert (data.img_size, data.store.size, data.views, data.num_classes) == (32, 32, "shift", 10)
    assert [len(data.split.part(part)) for part in PARTS] == [1257, 270, 270]


def test_groups_reach_the_split(tmp_path):
    paths = [f"{name}/{name}{k}_view{v}.png" for name in ("ash", "oak") for k in range(8) for v in range(3)]
    data = load_data(write_zip(tmp_path / "a.zip", pictures(paths)), group_pattern="(.+)_view")
    homes = {}
    for part in PARTS:
        for i in data.split.part(part):
            homes.setdefault(data.source.items[i].group, set()).add(part)
    assert all(len(home) == 1 for home in homes.values())
    assert data.card()["num_groups"] == 16


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"views": "ariel"}, "did you mean 'aerial'"),
        ({"img_size": 4}, "img_size is 4"),
        ({"img_size": 64, "store_size": 32}, "store_size is 32"),
        ({"num_views": -1}, "num_views is -1"),
        ({"val_share": 0.9}, "val_share is 0.9"),
    ],
)
def test_wrong_settings_are_found_before_anything_is_packed(monkeypatch, arguments, says):
    monkeypatch.setattr("sapling.data.loader.open_store", None)
    with pytest.raises(ConfigError, match=says):
        load_data("digits", **arguments)


@pytest.mark.parametrize(
    "arguments", [{"batch_size": 43}, {"batch_size": 0}, {"batch_size": 8, "seed": -1}, {"batch_size": 8, "epoch": -1}]
)
def test_wrong_batches_are_refused_at_once(data, arguments):
    with pytest.raises(ConfigError):
        data.train_batches(**{"epoch": 0, "seed": 0} | arguments)


def test_sources_splits_and_store_need_no_torch():
    code = (
        "import sys, sapling.data, sapling.data.sources, sapling.data.splits, sapling.data.packed;"
        "from sapling.data import open_source, make_split, prepare_image, VIEW_PRESETS;"
        "assert 'torch' not in sys.modules"
    )
    run_python("-c", code)


def test_public_names_are_there():
    import sapling.data

    for name in sapling.data.__all__:
        assert getattr(sapling.data, name) is not None
    assert sapling.data.__all__ == sorted(
        sapling.data.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)
    )
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sapling.data.nothing  # noqa: B018


def test_real_photographs_end_to_end():
    data = load_data(real("aid_100.zip"))
    assert (data.img_size, data.store.size, data.num_classes) == (128, 148, 30)
    assert data.card()["split"]["train"] == 2_100
    for k in (0, 1_500, 2_999):
        image = data.source.open(data.source.items[k])
        np.testing.assert_array_equal(data.store.images[k], prepare_image(image, 148))
    batch = next(data.train_batches(0, batch_size=64, seed=0))
    assert batch.images.shape == (64, 3, 128, 128)
