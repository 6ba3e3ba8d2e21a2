"""Plant faults and see that the tests notice: ``python tests/plant_faults.py [-k NAME] [-j JOBS]``.

A test that never failed proves little. Each ``tests/faults/*.yaml`` lists faults: a text that occurs once in a source
file, what to put in its place, and the test that must then fail. For each fault a child process is forked from this
one, which has loaded torch, timm and pytest already (but not Sapling, whose source is what changes), and runs that
one test on a copy of the tree. What forks has no other threads: a child of a process with threads may inherit a lock
that nobody will ever open. The exit code is 1 if any fault goes unnoticed, no longer fits the source, breaks more
than its test can tell (an import error catches everything), or names a test that fails without it.

What a child would do again is done once: the trees are links to one copy, whose files are compiled already, and what
was loaded before is no longer looked at by the garbage collector. A test that writes into a linked file would change
the sources of all others: that is noticed at the end.
"""

from __future__ import annotations

import argparse
import compileall
import faulthandler
import gc
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.digests import sources_digest  # noqa: E402
from tests.exporter import export_once  # noqa: E402

FAULTS = ROOT / "tests" / "faults"
PRELOAD = (
    "numpy",
    "torch",
    "torch.nn.functional",
    "torch.onnx",
    "timm",
    "timm.data",
    "pytest",
    "_hypothesis_pytestplugin",
    "anyio.pytest_plugin",
    "hypothesis.extra.numpy",
    "pydantic.main",
    "pydantic.type_adapter",
    "sklearn.datasets",
    "scipy.stats",
    "PIL.ImageSequence",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "jinja2",
    "typer.testing",
    "rich.console",
    "onnx",
    "onnxscript",
    "safetensors.torch",
)
SLOW = ("tests/workflows", "tests/deploy", "tests/report", "tests/test_")
"""Tests that often train whole runs or start processes."""

TIME_LIMIT_SECONDS = 150
PASSED, FAILED = 0, 1  # pytest's exit codes; all others mean that the test never ran
SKIPPED = 60  # ours: nothing failed and nothing ran, for want of real images or a browser


@dataclass(frozen=True)
class Fault:
    """A change to one source file, and the test that must notice."""

    area: str
    name: str
    file: str
    find: str
    replace: str
    test: str

    def problem(self) -> str | None:
        """Why this fault cannot be planted, or None."""
        path = ROOT / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        count = path.read_text(encoding="utf-8").count(self.find)
        if count != 1:
            return f"its text occurs {count} times in {self.file}"
        if self.find == self.replace:
            return "it changes nothing"
        test_file = self.test.partition("::")[0]
        return None if (ROOT / test_file).is_file() else f"there is no {test_file}"


def load_faults(folder: Path = FAULTS) -> list[Fault]:
    """All faults of all areas."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            found += [Fault(area=path.stem, **entry) for entry in yaml.safe_load(path.read_text("utf-8")) or []]
        except (yaml.YAMLError, TypeError) as error:
            sys.exit(f"{path}: {error}")
    return found


def copy_tree(target: Path, source: Path = ROOT, copy: Callable[[str, str], Any] = shutil.copy2) -> None:
    """A working copy: sources (with their compiled files), tests, settings, and the folders tests look into."""
    for name in ("src", "tests"):
        shutil.copytree(source / name, target / name, symlinks=True, copy_function=copy)
    for name in ("pyproject.toml", "CONTRIBUTING.md", "README.md"):
        if (source / name).is_file():
            copy(str(source / name), str(target / name))
    if (source / "examples").is_dir():
        shutil.copytree(source / "examples", target / "examples", copy_function=copy)


def plant(fault: Fault, tree: Path) -> None:
    """Apply a fault to a copy, whose files are links: that of the fault gets a new one in its place."""
    path = tree / fault.file
    planted = path.read_text(encoding="utf-8").replace(fault.find, fault.replace)
    path.unlink()
    path.write_text(planted, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()  # its stamp has a resolution of a second


def compile_tree(tree: Path, test_files: Sequence[str], log: Path) -> None:
    """Compile what every child would compile anew: its links share the result."""
    compileall.compile_dir(tree / "src", quiet=2)
    _run_once(test_files, tree, log, ["--collect-only"])  # pytest compiles tests in its own way


def run_test(test: str, tree: Path, log: Path, *options: str) -> int:
    """Run one test on a copy; gives pytest's exit code, or -1 when it hung twice (once may be the machine)."""
    code = _run_once([test], tree, log, options)
    if code == -1:
        print(f"{test} hung; it gets a second try\n{_end_of(log)}")
        code = _run_once([test], tree, log, options)
    return code


def _run_once(tests: Sequence[str], tree: Path, log: Path, options: Sequence[str]) -> int:
    sys.stdout.flush()  # or the child would write it once more
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _in_child(tests, tree, log, options)
        except BaseException:
            with log.open("a") as stream:
                traceback.print_exc(file=stream)
        finally:
            os._exit(code)
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


class _Counter:
    """A pytest plugin that tells a test that passed from one that was skipped."""

    passed = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.passed += report.when == "call" and report.passed


def _in_child(tests: Sequence[str], tree: Path, log: Path, options: Sequence[str]) -> int:
    os.setsid()  # a test's own children can be ended with it
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    faulthandler.dump_traceback_later(TIME_LIMIT_SECONDS - 5, file=2)  # where a test hangs
    os.chdir(tree)
    source = str(tree / "src")
    os.environ["PYTHONPATH"] = os.pathsep.join([source, str(tree)])  # for what a test starts itself
    sys.path[:] = [source, str(tree), *(p for p in sys.path if Path(p or ".").resolve() not in OURS)]
    for name in [m for m in sys.modules if m == "tests" or m.startswith("tests.")]:
        del sys.modules[name]  # the copy's tests, not this tree's
    import pytest
    from hypothesis import Phase, settings

    # the first example that fails is enough: no time for finding the smallest
    settings.register_profile("faults", phases=(Phase.explicit, Phase.generate), database=None)
    settings.load_profile("faults")
    where = [f"--rootdir={tree}", f"--basetemp={log.with_suffix('.tmp')}", "-p", "no:cacheprovider"]
    where += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of the plugins that are loaded already
    counter = _Counter()
    code = int(pytest.main([*tests, "-x", "-q", *where, *options], plugins=[counter]))
    if code == PASSED and not counter.passed:
        code = SKIPPED
    sys.stdout.flush()
    sys.stderr.flush()
    return code


OURS = {ROOT, ROOT / "src", ROOT / "tests"}


def examine(fault: Fault, original: Path, keep: Path) -> tuple[str, float]:
    """Plant one fault and say how it went, ``caught`` or what is wrong, and the seconds it took."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sapling-fault-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        copy_tree(tree, original, os.link)
        plant(fault, tree)
        log = keep / f"{fault.area}-{fault.name}.log".replace("/", "_").replace(" ", "_")
        code = run_test(fault.test, tree, log, "--tb=native")  # pytest's own parses the source of every frame
    shutil.rmtree(log.with_suffix(".tmp"), ignore_errors=True)
    outcome = {FAILED: "caught", PASSED: "SURVIVED", -1: "hangs its test"}.get(code, f"test did not run (exit {code})")
    if code not in (FAILED, PASSED):
        outcome += "\n" + _end_of(log)
    return outcome, time.monotonic() - started


def passed_before() -> dict[str, str]:
    """Outcomes of tests that ran on these very sources, as pytest's cache has them (see tests/conftest.py)."""
    kept = ROOT / ".pytest_cache" / "v" / "sapling" / "passed"
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    fits = isinstance(content, dict) and content.get("sources") == sources_digest(ROOT)
    return dict(content["tests"]) if fits else {}


def known(test: str, before: dict[str, str]) -> bool:
    """Whether a test (all its parameters) passed on these sources already."""
    outcomes = {outcome for name, outcome in before.items() if name == test or name.startswith(f"{test}[")}
    return outcomes == {"passed"}


def unfaulted(test: str, tree: Path, logs: Path) -> str:
    """Say why a test cannot be used: it does not pass as it is, and would catch anything; empty if it can."""
    log = logs / f"unfaulted-{abs(hash(test))}.log"
    code = run_test(test, tree, log)
    shutil.rmtree(log.with_suffix(".tmp"), ignore_errors=True)
    if code == PASSED:
        return ""
    return "skipped" if code == SKIPPED else f"its test fails unfaulted (exit {code})\n{_end_of(log)}"


def _end_of(log: Path) -> str:
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-40:])


def main() -> int:
    """Run all faults, or those whose name or area holds NAME; print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-k", default="", metavar="NAME", help="only faults with this in their name or area")
    parser.add_argument("--faults", type=Path, default=FAULTS, metavar="FOLDER", help="other lists of faults")
    parser.add_argument("-j", type=int, default=1, metavar="JOBS", help="faults at a time")
    options = parser.parse_args()
    faults = [f for f in load_faults(options.faults) if options.k in f"{f.area}/{f.name}"]
    if not faults:
        print(f"no fault matches {options.k!r}")
        return 1
    os.environ.pop("CI", None)  # where it is set, pytest prints unequal values whole, which can take minutes
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child cannot use its parent's threads
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait for work must not hold the other's core
    sys.dont_write_bytecode, sys.pycache_prefix = False, None  # whatever the environment says: the copy is ours
    for module in PRELOAD:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
    if "torch.onnx" in sys.modules:
        export_once()
    assert not any(m == "sapling" or m.startswith("sapling.") for m in sys.modules), "sapling was loaded too early"
    gc.collect()
    gc.freeze()  # or every collection in a child would look at torch again, and copy its pages
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    problems = {f: problem for f in faults if (problem := f.problem())}
    tests, before = sorted({f.test for f in faults if f not in problems}), passed_before()
    width = max(len(f"{f.area}/{f.name}") for f in faults)
    caught = skipped = 0
    with tempfile.TemporaryDirectory(prefix="sapling-faults-") as folder:
        original, logs = Path(folder) / "original", Path(folder) / "logs"
        original.mkdir()
        logs.mkdir()
        copy_tree(original)
        sources = sources_digest(original)
        compile_tree(original, sorted({t.partition("::")[0] for t in tests}), logs / "compile.log")
        with ProcessPoolExecutor(max(1, options.j), mp_context=multiprocessing.get_context("fork")) as pool:
            whys = dict.fromkeys(tests, "")
            unknown = [t for t in tests if not known(t, before)]
            print(f"{len(tests) - len(unknown)} of {len(tests)} tests passed on these sources before")
            whys.update(
                zip(
                    unknown,
                    pool.map(unfaulted, unknown, [original] * len(unknown), [logs] * len(unknown)),
                    strict=True,
                )
            )
            sound = [f for f in faults if f not in problems and not whys[f.test]]
            sound.sort(key=lambda f: not f.test.startswith(SLOW))  # so that all workers end together
            results = dict(
                zip(sound, pool.map(examine, sound, [original] * len(sound), [logs] * len(sound)), strict=True)
            )
        gc.unfreeze()
        if sources_digest(original) != sources:
            print("a test wrote into its sources, which all trees share: no outcome can be trusted")
            return 1
    for fault in sorted(faults, key=lambda f: (f.area, f.name)):
        outcome, seconds = results.get(fault, (problems.get(fault) or whys[fault.test], 0.0))
        word, _, details = outcome.partition("\n")
        print(f"{fault.area + '/' + fault.name:{width}}  {word:26} {seconds:5.1f} s  {fault.test}")
        if details:
            print(details)
        caught += word == "caught"
        skipped += word == "skipped"
    print(f"{caught} of {len(faults)} faults were caught" + (f", {skipped} skipped" if skipped else ""))
    return 0 if caught + skipped == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
