"""A cached teacher says what the live one would say of the very view: tensors are compared, not losses."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sapling.data.answers import open_answers
from sapling.data.loader import load_data
from sapling.errors import RunError
from sapling.models.create import create_model
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.teachers import cached as module
from sapling.teachers.build_cache import build_answers, bytes_per_view, verify_answers
from sapling.teachers.cached import CachedTeacher
from sapling.teachers.live import LiveTeacher
from sapling.types import Batch, Outputs

TAPS = ("stage2", "embedding")
VIEWS = 3


@pytest.fixture(scope="module")
def data(photos):
    return load_data(photos, img_size=16, views="aerial", num_views=VIEWS)


@pytest.fixture(scope="module")
def live():
    """Weights large enough that two views get clearly different answers."""
    model = create_model("cnn4", num_classes=3, img_size=16, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    preprocess = Preprocess(16, 18, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    return LiveTeacher(TappedModel(model, preprocess, TAPS), device="cpu", bf16=False, channels_last=True)


class Counted:
    """A teacher that counts the images that it was asked about."""

    def __init__(self, live):
        self._live, self.asked = live, 0
        self.shapes, self.taps_without_activation, self.card = live.shapes, live.taps_without_activation, live.card

    def outputs(self, batch):
        self.asked += len(batch.indices)
        return self._live.outputs(batch)


def make(data, live, folder, taps=TAPS, of="t", **options):
    store = open_answers({"of": of}, data.split.train, num_views=data.num_views, name="p", folder=folder)
    build_answers(store, live, data, taps=taps, batch_size=20, device="cpu")
    return CachedTeacher(live, store, num_classes=data.num_classes, taps=taps, **options)


@pytest.fixture(scope="module")
def kept(data, live, tmp_path_factory):
    counted = Counted(live)
    teacher = make(data, counted, tmp_path_factory.mktemp("answers"))
    counted.asked = 0
    yield teacher, counted
    teacher.store.close()


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (0, 4), (7, 2)])
def test_answers_are_those_of_the_view_that_is_shown(data, live, kept, seed, epoch):
    teacher, counted = kept
    for batch in data.train_batches(epoch, batch_size=16, seed=seed):
        found, true = teacher.outputs(batch), live.outputs(batch)
        for one, two in [(found.logits, true.logits), *((found.features[t], true.features[t]) for t in TAPS)]:
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, two, rtol=2e-3, atol=2e-3)
            assert not one.requires_grad
    assert counted.asked == 0


def test_two_views_of_an_image_have_clearly_different_answers(data, kept):
    teacher, _ = kept
    answers = [
        torch.cat([teacher.outputs(batch).logits for batch in data.view_batches(view, batch_size=32)])
        for view in range(VIEWS)
    ]
    # 100 times what rounding explains: a cache that ignored the view could not pass the test above
    assert min(float((answers[0] - other).abs().max()) for other in answers[1:]) > 0.2


def test_images_that_an_epoch_draws_again_show_another_view(photos, live, tmp_path):
    data = load_data(photos, img_size=16, views="aerial", num_views=VIEWS, sample_power=1.0)
    teacher, mixed_views = make(data, live, tmp_path, taps=()), 0
    for epoch in range(3):
        for batch in data.train_batches(epoch, batch_size=16, seed=3):
            mixed_views += len(batch.views.unique()) > 1
            torch.testing.assert_close(teacher.outputs(batch).logits, live.outputs(batch).logits, rtol=2e-3, atol=2e-3)
    teacher.store.close()


def test_a_batch_of_several_views_is_answered_row_by_row(data, live, kept):
    teacher, counted = kept
    rows = np.sort(data.split.train)[:12]
    views = np.arange(12) % VIEWS
    batch = data._batch(rows, views, torch.device("cpu"), True)
    torch.testing.assert_close(teacher.outputs(batch).logits, live.outputs(batch).logits, rtol=2e-3, atol=2e-3)
    for tap in TAPS:
        torch.testing.assert_close(
            teacher.outputs(batch).features[tap], live.outputs(batch).features[tap], rtol=2e-3, atol=2e-3
        )
    assert counted.asked == 0


@pytest.mark.parametrize("split", ["val", "test"])
def test_images_that_are_not_kept_are_answered_by_the_teacher_itself(data, live, kept, split):
    teacher, counted = kept
    for batch in data.eval_batches(split, batch_size=8):
        assert torch.equal(teacher.outputs(batch).logits, live.outputs(batch).logits)
    assert counted.asked > 0
    counted.asked = 0


def test_views_that_are_not_kept_are_answered_by_the_teacher_itself(data, live, kept):
    teacher, counted = kept
    for view in (VIEWS, -1):
        batch = next(data.view_batches(view, batch_size=8))
        assert torch.equal(teacher.outputs(batch).logits, live.outputs(batch).logits)
    counted.asked = 0


def test_nothing_is_asked_twice_and_another_tap_is_added_beside(data, live, tmp_path):
    counted = Counted(live)
    teacher = make(data, counted, tmp_path, taps=())
    once = counted.asked
    assert once == VIEWS * len(data.split.train)
    make(data, counted, tmp_path, taps=())
    assert counted.asked == once
    more = make(data, counted, tmp_path, taps=("embedding",))
    assert counted.asked == 2 * once
    batch = next(data.train_batches(0, batch_size=16, seed=0))
    assert set(more.outputs(batch).features) == {"embedding"}
    assert torch.equal(teacher.outputs(batch).logits, more.outputs(batch).logits)


def test_a_build_that_was_broken_off_goes_on_where_it_was(data, live, tmp_path):
    class Dies(Counted):
        def outputs(self, batch):
            if self.asked >= len(data.split.train) * 2:
                raise KeyboardInterrupt
            return super().outputs(batch)

    dying = Dies(live)
    with pytest.raises(KeyboardInterrupt):
        make(data, dying, tmp_path)
    counted = Counted(live)
    teacher = make(data, counted, tmp_path)
    assert counted.asked == len(data.split.train) * (VIEWS - 2)
    batch = next(data.train_batches(1, batch_size=16, seed=0))
    torch.testing.assert_close(teacher.outputs(batch).logits, live.outputs(batch).logits, rtol=2e-3, atol=2e-3)


def test_a_damaged_view_is_asked_for_again(data, live, tmp_path):
    teacher = make(data, live, tmp_path, taps=())
    path = next(teacher.store.place.glob("logits-0001-*.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)
    counted = Counted(live)
    again = make(data, counted, tmp_path, taps=())
    assert counted.asked == len(data.split.train)
    batch = next(data.view_batches(1, batch_size=16))
    torch.testing.assert_close(again.outputs(batch).logits, live.outputs(batch).logits, rtol=2e-3, atol=2e-3)


def test_of_mixed_images_the_soft_targets_are_mixed_as_the_labels_are(photos, live, tmp_path):
    data = load_data(photos, img_size=16, views="aerial", num_views=VIEWS, mixup=0.8, cutmix=1.0, mix_share=0.7)
    teacher = make(data, live, tmp_path, taps=())
    for batch in data.train_batches(1, batch_size=16, seed=5):
        plain = data._batch(batch.indices.numpy(), batch.views.numpy(), torch.device("cpu"), True)
        said = F.softmax(live.outputs(plain).logits, 1)
        expected = torch.stack([s * said[i] + (1 - s) * said[(i + 1) % len(said)] for i, s in enumerate(batch.shares)])
        found = F.softmax(teacher.outputs(batch).logits, 1)
        torch.testing.assert_close(found, expected, rtol=5e-3, atol=1e-3)
        labels = F.one_hot(batch.labels, 3).float()
        own = torch.stack([s * labels[i] + (1 - s) * labels[(i + 1) % len(labels)] for i, s in enumerate(batch.shares)])
        torch.testing.assert_close(batch.targets, own)


def test_of_several_labels_each_chance_is_mixed(data, live, kept):
    teacher, _ = kept
    several = CachedTeacher(live, teacher.store, num_classes=3, multi_label=True)
    plain = next(data.train_batches(0, batch_size=16, seed=0))
    shares = torch.linspace(0, 1, 16)
    batch = Batch(plain.images, None, plain.indices, plain.views, torch.zeros(16, 3), shares)
    chances = teacher.outputs(plain).logits.sigmoid()
    expected = shares[:, None] * chances + (1 - shares[:, None]) * chances.roll(-1, 0)
    torch.testing.assert_close(several.outputs(batch).logits.sigmoid(), expected, rtol=1e-4, atol=1e-5)


def test_features_of_mixed_images_are_refused(photos, live, tmp_path):
    data = load_data(photos, img_size=16, views="aerial", num_views=VIEWS, mixup=0.8)
    teacher = make(data, live, tmp_path)
    with pytest.raises(RunError, match="mixed"):
        teacher.outputs(next(data.train_batches(0, batch_size=16, seed=0)))


class ManyClasses:
    """Answers with 40 classes, a function of the image."""

    shapes, taps_without_activation, card = {}, (), None

    def outputs(self, batch):
        weight = torch.randn(3 * 16 * 16, 40, generator=torch.Generator().manual_seed(0))
        return Outputs(batch.images.flatten(1).float() @ weight / 4)


def test_of_many_classes_the_largest_are_kept_and_the_rest_is_spread_evenly(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ALL_LOGITS", 30)
    monkeypatch.setattr(module, "TOP_LOGITS", 5)
    monkeypatch.setattr(type(data), "num_classes", property(lambda self: 40))
    teacher = make(data, ManyClasses(), tmp_path, taps=())
    batch = next(data.train_batches(2, batch_size=16, seed=0))
    found, true = F.softmax(teacher.outputs(batch).logits, 1), F.softmax(ManyClasses().outputs(batch).logits, 1)
    torch.testing.assert_close(found.sum(1), torch.ones(16), rtol=1e-3, atol=1e-3)
    for row, expected in zip(found, true, strict=True):
        top = expected.topk(5).indices
        torch.testing.assert_close(row[top], expected[top], rtol=1e-2, atol=1e-4)
        others = torch.ones(40, dtype=torch.bool)
        others[top] = False
        assert row[others].max() - row[others].min() < 1e-6
        torch.testing.assert_close(row[others].sum(), expected[others].sum(), rtol=0.05, atol=2e-3)
    result = verify_answers(teacher.store, ManyClasses(), data, taps=(), batch_size=16, device="cpu")
    assert result.holds
    assert bytes_per_view(data, {}) == len(data.split.train) * 5 * (2 + 4)


def test_verifying_compares_with_what_the_teacher_says_now(data, live, kept):
    teacher, _ = kept
    result = verify_answers(teacher.store, live, data, taps=TAPS, batch_size=16, device="cpu")
    assert result.holds
    assert set(result.largest) == {"logits", *TAPS}
    assert result.num_answers == VIEWS * len(data.split.train)
    assert max(result.largest.values()) < 0.02


def test_verifying_notices_answers_to_other_views(data, live, tmp_path):
    """Files under each other's number: what a cache that ignored the view would hold."""
    teacher = make(data, live, tmp_path, taps=())
    one, two = (next(teacher.store.place.glob(f"logits-000{v}-*.npy")) for v in (0, 1))
    contents = {one: one.read_bytes(), two: two.read_bytes()}
    check = {p: p.stem.rpartition("-")[2] for p in contents}
    one.unlink()
    two.unlink()
    (one.parent / f"logits-0000-{check[two]}.npy").write_bytes(contents[two])
    (one.parent / f"logits-0001-{check[one]}.npy").write_bytes(contents[one])
    teacher.store._maps.clear()
    assert not verify_answers(teacher.store, live, data, taps=(), batch_size=16, device="cpu").holds


def test_other_images_than_those_of_the_store_are_refused(data, live, tmp_path):
    store = open_answers({"of": "t"}, data.split.train[:-1], num_views=VIEWS, name="p", folder=tmp_path)
    with pytest.raises(RunError, match="other images"):
        build_answers(store, live, data, taps=(), batch_size=20, device="cpu")
    store.close()


def test_of_several_labels_all_logits_are_kept_however_many(monkeypatch):
    monkeypatch.setattr(module, "ALL_LOGITS", 30)
    monkeypatch.setattr(module, "TOP_LOGITS", 5)
    logits = torch.randn(4, 40)
    assert module.kept_logits(logits, multi_label=True)["logits"].shape == (4, 40)
    assert module.kept_logits(logits)["logits"].shape == (4, 5)
    assert module.logit_parts(40, multi_label=True) == {"logits": (40,)}
