"""Plant faults and see that the tests notice: ``python tests/plant_faults.py [-k NAME] [-j JOBS]``.

A test that never failed proves little. Each ``tests/faults/*.yaml`` lists faults: a text that occurs once in a source
file, what to put in its place, and the test that must then fail. For each fault a child process is forked from this
one, which has loaded torch, timm and pytest already (but not Sapling, whose source is what changes), and runs that
one test on a copy of the tree. What forks has no other threads: a child of a process with threads may inherit a lock
that nobody will ever open. The exit code is 1 if any fault goes unnoticed, no longer fits the source, breaks more
than its test can tell (an import error catches everything), or names a test that fails without it.
"""

from __future__ import annotations

import argparse
import faulthandler
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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.digests import sources_digest  # noqa: E402

FAULTS = ROOT / "tests" / "faults"
PRELOAD = (
    "numpy",
    "torch",
    "torch.nn.functional",
    "timm",
    "pytest",
    "hypothesis",
    "pydantic",
    "sklearn.datasets",
    "scipy.stats",
    "PIL.Image",
)
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


def copy_tree(target: Path, source: Path = ROOT) -> None:
    """A working copy: sources (with their compiled files), tests, settings, and the folders tests look into."""
    for name in ("src", "tests"):
        shutil.copytree(source / name, target / name, symlinks=True)
    for name in ("pyproject.toml", "CONTRIBUTING.md", "README.md"):
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)
    if (source / "examples").is_dir():
        shutil.copytree(source / "examples", target / "examples")


def plant(fault: Fault, tree: Path) -> None:
    """Apply a fault to a copy."""
    path = tree / fault.file
    path.write_text(path.read_text(encoding="utf-8").replace(fault.find, fault.replace), encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()  # its stamp has a resolution of a second


def run_test(test: str, tree: Path, log: Path) -> int:
    """Run one test on a copy; gives pytest's exit code, or -1 when it hung twice (once may be the machine)."""
    code = _run_once(test, tree, log)
    if code == -1:
        print(f"{test} hung; it gets a second try\n{_end_of(log)}")
        code = _run_once(test, tree, log)
    return code


def _run_once(test: str, tree: Path, log: Path) -> int:
    sys.stdout.flush()  # or the child would write it once more
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _in_child(test, tree, log)
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


def _in_child(test: str, tree: Path, log: Path) -> int:
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
    options = ["-x", "-q", f"--rootdir={tree}", f"--basetemp={log.with_suffix('.tmp')}", "-p", "no:cacheprovider"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of the plugins that are loaded already
    counter = _Counter()
    code = int(pytest.main([test, *options], plugins=[counter]))
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
        copy_tree(tree, original)
        plant(fault, tree)
        log = keep / f"{fault.area}-{fault.name}.log".replace("/", "_").replace(" ", "_")
        code = run_test(fault.test, tree, log)
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
    for module in PRELOAD:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
    assert not any(m == "sapling" or m.startswith("sapling.") for m in sys.modules), "sapling was loaded too early"
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
            results = dict(
                zip(sound, pool.map(examine, sound, [original] * len(sound), [logs] * len(sound)), strict=True)
            )
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
