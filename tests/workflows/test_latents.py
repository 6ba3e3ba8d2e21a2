"""Latents in place of features: students hear what they would have made of them, and the disk holds less."""

import json
import shutil
import zlib
from collections import namedtuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sapling import methods
from sapling.cli import main
from sapling.data.answers import open_answers, part_name
from sapling.data.loader import load_data
from sapling.data.partwriter import CannotHoldError
from sapling.models.create import create_model
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.teachers.build_cache import build_answers
from sapling.teachers.cached import CachedTeacher
from sapling.teachers.live import LiveTeacher
from sapling.types import LATENT, Outputs, PairInfo, Step
from sapling.workflows import answers
from sapling.workflows.answers import decide
from sapling.workflows.latents import LatentTeacher
from tests.digests import digest
from tests.workflows.test_answers import run, settings

Usage = namedtuple("Usage", "total used free")
FDBD = {"name": "fdbd", "phase1_epochs": 1, "ae_channels": 8}
NAME = f"{LATENT}x"
pytestmark = pytest.mark.usefixtures("cache", "no_page")


@pytest.fixture
def asked(monkeypatch):
    seen, outputs = [], LiveTeacher.outputs

    def counted(self, batch):
        seen.extend(int(v) for v in batch.views if v >= 0)
        return outputs(self, batch)

    monkeypatch.setattr(LiveTeacher, "outputs", counted)
    return seen


def small_disk(monkeypatch, data_bytes):
    monkeypatch.setattr(answers.shutil, "disk_usage", lambda _: Usage(0, 0, 2 * data_bytes))


def test_the_latent_is_that_of_the_live_path_for_every_view(photos, tmp_path):
    """Tensors, not losses; and the views of an image differ by much more than rounding does."""
    data = load_data(photos, img_size=16, views="aerial", num_views=3)
    model = create_model("cnn4", num_classes=3, img_size=16, seed=1)
    tapped = TappedModel(model, Preprocess(16, 18, (0.4,) * 3, (0.2,) * 3), ("stage4",))
    live = LiveTeacher(tapped, device="cpu", bf16=False, channels_last=True)
    size = live.shapes["stage4"][1:]
    info = PairInfo(3, 62, {"stage4": (6, *size)}, live.shapes)
    method = methods.build("fdbd", info, ae_channels=8)
    for part in method.modules():  # as after a first phase: the statistics of a batch norm are not those of a batch
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.001, 0.01)
    method.begin_phase(method.phases()[-1])
    method.train()
    latents = LatentTeacher(live, method, NAME)
    store = open_answers({}, data.split.train, num_views=3, name="p", folder=tmp_path)
    build_answers(store, latents, data, taps=(NAME,), batch_size=20, device="cpu")
    cached = CachedTeacher(latents, store, num_classes=3, taps=(NAME,))
    of_views, step = [], Step("train", terms=("diffkd",))
    for view in range(3):
        for batch in data.view_batches(view, batch_size=62):
            heard, alive = cached.outputs(batch), live.outputs(batch)
            expected = method.branches["feat"].encode(alive.features["stage4"]).detach()
            assert heard.features[NAME].shape == (62, 8, *size)
            torch.testing.assert_close(heard.features[NAME], expected, rtol=2e-3, atol=2e-3)
            of_views.append(expected)
            student = Outputs(torch.randn(62, 3), {"stage4": torch.randn(62, 6, *size)})
            losses = []
            for outputs in (heard, alive):
                torch.manual_seed(0)
                losses.append(method(student, outputs, batch, step)["diffkd"].item())
            assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert float((of_views[0] - of_views[1]).abs().mean()) > 0.05
    assert next(tmp_path.glob("*/tap.*.npy")).stat().st_size < 62 * np.prod(live.shapes["stage4"]) * 2
    store.close()


@pytest.mark.parametrize(
    ("method", "num_bytes", "expected"),
    # bytes of an image and view: logits 6, feature 2 x 64 x 4 x 4, latent 2 x 8 x 4 x 4
    [
        ({"method": "fdbd", "ae_channels": 8}, 62 * 16 * 2054, (True, False)),
        ({"method": "fdbd", "ae_channels": 8}, 62 * 16 * 2053, (True, True)),
        ({"method": "fdbd", "ae_channels": 8}, 62 * 16 * 262, (True, True)),
        ({"method": "fdbd", "ae_channels": 8}, 62 * 16 * 261, (False, False)),
        ({"method": "fdbd", "ae_channels": 8, "joint": True}, 62 * 16 * 2053, (False, False)),
        ({"method": "at"}, 62 * 16 * 2053, (False, False)),
        ({"method": "kd+fdbd"}, 62 * 16 * 2053, (False, False)),
    ],
)
def test_latents_are_kept_where_features_do_not_fit(photos, monkeypatch, method, num_bytes, expected):
    data = load_data(photos, img_size=16)
    small_disk(monkeypatch, num_bytes)
    found = decide(*with_shapes(data, method))
    assert (found.kept, found.latents) == expected
    assert ("as latents" in found.sentence) == found.latents


def test_latents_that_lie_there_need_no_room(photos, monkeypatch):
    data = load_data(photos, img_size=16)
    small_disk(monkeypatch, 62 * 16 * 6)
    asked = with_shapes(data, {"method": "fdbd", "ae_channels": 8})
    for there, is_kept in ((LATENT + "0123456789abcdef", True), ("stage3", False)):
        found = decide(*asked, {part_name(there): 62 * 16 * 256})
        assert (found.kept, found.latents) == (is_kept, is_kept)


def with_shapes(data, method):
    config, epochs = settings(**method)
    return config, data, {"stage4": (64, 4, 4)}, epochs


def features_do_not_fit(monkeypatch):
    """Features count a thousand times."""
    real = answers.bytes_per_view
    monkeypatch.setattr(
        answers, "bytes_per_view", lambda data, shapes: real(data, shapes) * (1 if LATENT in shapes else 10**12)
    )


def test_a_run_on_latents_learns_as_one_on_features(photos, teacher, tmp_path, asked, monkeypatch):
    whole = run(photos, teacher, tmp_path / "a", method=FDBD)
    features_do_not_fit(monkeypatch)
    asked.clear()
    small = run(photos, teacher, tmp_path / "b", method=FDBD)
    heard = small.results["teacher"]["heard"]
    assert (heard["kept"], heard["latents"], heard["num_views"]) == (True, True, 3)
    assert "kept as latents" in (tmp_path / "b" / "log.txt").read_text()
    # the phase was in the cache, so it is asked once for each view whatever the seeds
    assert [asked.count(view) for view in range(3)] == [62, 62, 62]
    name = "members/fdbd-s1/model.safetensors"
    one, two = (load(result.folder / name) for result in (whole, small))
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 0.02
    control = "members/control-s1/model.safetensors"
    assert digest(whole.folder / control) == digest(small.folder / control)
    parts = {p.name.split("-")[0]: p.stat().st_size for p in (tmp_path / "cache").glob("answers/*/tap.*.npy")}
    latent, feature = (next(v for k, v in parts.items() if ("latent" in k) == is_it) for is_it in (True, False))
    assert latent < feature / 2
    asked.clear()
    one_seed = {"num_seeds": 1}
    run(photos, teacher, tmp_path / "c", method=FDBD, train=one_seed)
    assert asked == []  # another run on the same phase
    run(photos, teacher, tmp_path / "d", method={**FDBD, "phase1_epochs": 2}, train=one_seed)
    kept = {p.name.split("-")[0] for p in (tmp_path / "cache").glob("answers/*/tap.latent*.npy")}
    assert len(kept) == 2  # latents of another phase are others


def test_kept_latents_are_verified_and_built_by_the_runs_own_first_phase(
    photos, teacher, tmp_path, monkeypatch, capsys
):
    features_do_not_fit(monkeypatch)
    run(photos, teacher, tmp_path / "a", method=FDBD, train={"num_seeds": 1})

    def call(command):
        code = main(["cache", command, str(tmp_path / "a")])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    code, out = call("verify")
    assert code == 0
    assert "latent" in out
    (kept,) = (tmp_path / "cache").glob("answers/*/tap.latent*-0001-*.npy")
    kept.unlink()
    code, out = call("verify")
    assert code == 1
    assert "1 of 3 views are missing" in out
    assert call("build")[0] == 0
    assert kept.is_file()
    assert call("verify")[0] == 0
    others = np.load(kept)[::-1].copy()  # of other images, under a checksum that is right
    np.save(kept, others)
    kept.rename(kept.with_name(f"{kept.stem[:-8]}{zlib.crc32(kept.read_bytes()):08x}.npy"))
    code, out = call("verify")
    assert code == 1
    assert "not what the teacher says now" in out
    shutil.rmtree(tmp_path / "a" / "phases")
    code, out = call("verify")
    assert code == 1
    assert "is not done" in out


def test_latents_that_cannot_be_kept_cost_no_run_its_life(photos, teacher, tmp_path, monkeypatch):
    features_do_not_fit(monkeypatch)

    def full(*_, **__):
        raise CannotHoldError("the latents have values that float16 cannot hold")

    monkeypatch.setattr(answers, "build_answers", full)
    options = {"teacher": {"cache": "auto"}, "train": {"epochs": 8, "num_seeds": 1}}
    found = run(photos, teacher, tmp_path / "a", method=FDBD, **options)
    heard = found.results["teacher"]["heard"]
    assert (heard["kept"], heard["latents"]) == (False, False)
    assert "float16" in heard["reason"]
    with pytest.raises(CannotHoldError):
        run(photos, teacher, tmp_path / "b", method=FDBD)


def load(path):
    return {k: v for k, v in load_file(path).items() if v.is_floating_point()}


def test_a_killed_run_goes_on_with_its_latents(photos, teacher, tmp_path, asked, monkeypatch):
    features_do_not_fit(monkeypatch)
    straight = run(photos, teacher, tmp_path / "a", method=FDBD)
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "other"))
    view_batches, seen = type(load_data(photos, img_size=16)).view_batches, []

    def dies(self, view, **options):
        seen.append(view)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return view_batches(self, view, **options)

    with monkeypatch.context() as patch:
        patch.setattr("sapling.data.dataset.Dataset.view_batches", dies)
        with pytest.raises(KeyboardInterrupt):
            run(photos, teacher, tmp_path / "b", method=FDBD)
    assert json.loads((tmp_path / "b" / "answers.json").read_text())["latents"]
    asked.clear()
    again = run(photos, teacher, tmp_path / "b", method=FDBD)
    assert 0 not in asked  # the view that was whole
    name = "members/fdbd-s1/model.safetensors"
    assert digest(again.folder / name) == digest(straight.folder / name)
