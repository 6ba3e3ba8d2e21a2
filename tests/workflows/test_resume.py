"""kill -9 at any moment: the same command goes on to the same bits."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from tests.conftest import SMALL_RUN, write_images
from tests.digests import digest

# a clean parent that has paid for the imports and never computed: forking it is safe and quick
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sapling.workflows.distill", "sapling.workflows.train"])


# whatever draws random numbers or keeps something beside the weights
KEPT = {"data": {"num_views": 2}, "train": {"num_seeds": 1}, "teacher": {"cache": "on"}}
RICH = {
    "data": {"mixup": 0.8, "cutmix": 1.0, "mix_share": 0.7, "views": "photo", "num_views": 3},
    "train": {"ema_decay": 0.9, "imbalance": "sampler"},
}


def blocks(photos, output, rich):
    more = {"rich": RICH, "kept": KEPT}.get(rich, {"data": {}, "train": {}})
    deploy = {"onnx": False, "latency_seconds": 0}
    train = {**SMALL_RUN["train"], "num_seeds": 1, "threads": 1, **more["train"]}
    return {
        **SMALL_RUN,
        "teacher": {**SMALL_RUN["teacher"], **more.get("teacher", {})},
        "data": {"source": str(photos), "img_size": 16, **more["data"]},
        "deploy": deploy,
        "train": train,
        "output": output,
    }


def work(photos, output, cache, die_after, rich):
    """Run in a child; dies by SIGKILL after so many training steps."""
    os.environ["SAPLING_CACHE"] = cache
    import sapling
    from sapling.engine import trainer

    steps, step = [0], trainer._train_step

    def counted(*args):
        steps[0] += 1
        if steps[0] == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*args)

    trainer._train_step = counted
    sapling.distill(**blocks(photos, output, rich))


def keep_half(photos, output, cache):
    """Run in a child; dies by SIGKILL while the second view of the teacher's answers is written."""
    os.environ["SAPLING_CACHE"] = cache
    import sapling
    from sapling.data.partwriter import PartWriter

    append = PartWriter.append

    def dies(self, part, values):
        append(self, part, values)
        if self._view == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    PartWriter.append = dies
    sapling.distill(**blocks(photos, output, "kept"))


def run_child(photos, output, cache, die_after, rich=None):
    child = CONTEXT.Process(target=work, args=(str(photos), str(output), cache, die_after, rich))
    child.start()
    child.join(120)
    return child.exitcode


@pytest.fixture(scope="module")
def kill_photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("kill") / "photos")


@pytest.fixture(scope="module")
def wholes(kill_photos, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    folders = {}
    for rich in (None, "rich", "kept"):
        folders[rich] = tmp_path_factory.mktemp("whole") / "r"
        assert run_child(kill_photos, folders[rich], cache, None, rich) == 0
    return folders, cache


# 63 training images, batch 16: 3 steps an epoch; the teacher takes 24 steps, the pass 2 x 9
@pytest.mark.parametrize(
    ("die_after", "rich"),
    [(5, None), (24, None), (27, None), (41, None), (8, "rich"), (35, "rich"), (25, "kept"), (34, "kept")],
)
def test_killed_and_resumed_is_bit_identical(kill_photos, wholes, tmp_path, die_after, rich):
    folders, cache = wholes
    folder, broken = folders[rich], tmp_path / "r"
    assert run_child(kill_photos, broken, cache, die_after, rich) == -signal.SIGKILL
    assert not (broken / "results.json").exists()
    assert run_child(kill_photos, broken, cache, None, rich) == 0
    for name in ("teacher", "members/control-s0", "members/dist-s0", "student"):
        assert digest(broken / name / "model.safetensors") == digest(folder / name / "model.safetensors")

    def rows(run):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in r.items() if k != "seconds"} for r in lines]

    assert rows(broken) == rows(folder)
    results = [json.loads((f / "results.json").read_text())["comparison"] for f in (broken, folder)]
    assert results[0] == results[1]


def test_killed_while_answers_are_kept_is_bit_identical(kill_photos, wholes, tmp_path):
    broken, cache = tmp_path / "r", tmp_path / "cache"
    child = CONTEXT.Process(target=keep_half, args=(str(kill_photos), str(broken), str(cache)))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    place = next((cache / "answers").glob("*-2-*"))
    assert len(list(place.glob("logits-0000-*.npy"))) == 1
    assert not list(place.glob("logits-0001-*.npy"))
    assert run_child(kill_photos, broken, str(cache), None, "kept") == 0
    assert not list(place.glob(".part-*"))
    for name in ("members/control-s0", "members/dist-s0"):
        assert digest(broken / name / "model.safetensors") == digest(wholes[0]["kept"] / name / "model.safetensors")


def test_killed_between_results_and_report(kill_photos, wholes, tmp_path):
    import shutil

    folders, cache = wholes
    copy = shutil.copytree(folders[None], tmp_path / "r")
    (copy / "results.json").unlink()
    (copy / "report.html").unlink()
    started = time.time()
    assert run_child(kill_photos, copy, cache, 1) == 0  # not one training step is repeated
    assert json.loads((copy / "results.json").read_text())["comparison"]
    assert (copy / "report.html").stat().st_mtime >= started - 1
