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


def blocks(photos, output):
    deploy = {"onnx": False}
    train = {**SMALL_RUN["train"], "num_seeds": 1, "threads": 1}
    return {
        **SMALL_RUN,
        "data": {"source": str(photos), "img_size": 16},
        "deploy": deploy,
        "train": train,
        "output": output,
    }


def work(photos, output, cache, die_after):
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
    sapling.distill(**blocks(photos, output))


def run_child(*args):
    child = CONTEXT.Process(target=work, args=args)
    child.start()
    child.join(120)
    return child.exitcode


@pytest.fixture(scope="module")
def kill_photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("kill") / "photos")


@pytest.fixture(scope="module")
def whole(kill_photos, tmp_path_factory):
    folder, cache = tmp_path_factory.mktemp("whole") / "r", str(tmp_path_factory.mktemp("cache"))
    assert run_child(str(kill_photos), str(folder), cache, None) == 0
    return folder, cache


# 63 training images, batch 16: 3 steps an epoch; the teacher takes 24 steps, the pass 2 x 9
@pytest.mark.parametrize("die_after", [5, 24, 27, 41])
def test_killed_and_resumed_is_bit_identical(kill_photos, whole, tmp_path, die_after):
    folder, cache = whole
    broken = tmp_path / "r"
    assert run_child(str(kill_photos), str(broken), cache, die_after) == -signal.SIGKILL
    assert not (broken / "results.json").exists()
    assert run_child(str(kill_photos), str(broken), cache, None) == 0
    for name in ("teacher", "members/control-s0", "members/kd-s0", "student"):
        assert digest(broken / name / "model.safetensors") == digest(folder / name / "model.safetensors")

    def rows(run):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in r.items() if k != "seconds"} for r in lines]

    assert rows(broken) == rows(folder)
    results = [json.loads((f / "results.json").read_text())["comparison"] for f in (broken, folder)]
    assert results[0] == results[1]


def test_killed_between_results_and_report(kill_photos, whole, tmp_path):
    import shutil

    folder, cache = whole
    copy = shutil.copytree(folder, tmp_path / "r")
    (copy / "results.json").unlink()
    (copy / "report.html").unlink()
    started = time.time()
    assert run_child(str(kill_photos), str(copy), cache, 1) == 0  # not one training step is repeated
    assert json.loads((copy / "results.json").read_text())["comparison"]
    assert (copy / "report.html").stat().st_mtime >= started - 1
