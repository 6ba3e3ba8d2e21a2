"""Rules of the house that can be read off the source: who imports whom, length of files, what is never used."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "sapling"
FILES = sorted(p for p in SOURCE.rglob("*.py") if "__pycache__" not in p.parts)
OTHERS = sorted(
    p for top in ("tests", "benchmarks", "examples") for p in (ROOT / top).rglob("*.py") if "__pycache__" not in p.parts
)

BASE = {"types", "errors", "bands"}
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "bands": {"errors"},
    "screen": {"errors"},
    "trackers": {"errors"},
    # no torch (test_lazy): of the other parts they may use only what imports none
    "config_errors": {"errors"},
    "assignments": {"errors"},
    "config_history": set(),
    "config": {"errors", "config_errors", "config_history", "assignments", "bands", "methods", "data", "trackers"},
    "command": set(),
    "run_folders": {"errors", "config", "assignments"},
    "record": {"errors", "config", "run_folders"},
    "report": {"errors", "record"},
    "losses": BASE,
    "blocks": BASE,
    "grids": BASE,
    "fusion": BASE | {"grids"},
    "reused": BASE,  # a network that a method makes, and that models must be able to build again
    "methods": BASE | {"losses", "blocks", "grids", "fusion", "reused"},
    "models": BASE | {"reused"},
    "data": BASE,
    "teachers": BASE | {"models", "data"},
    "engine": BASE | {"methods", "models", "data", "teachers"},
    "evaluation": BASE | {"models", "data"},
    "deploy": BASE | {"models", "data", "evaluation"},
}
ALLOWED["workflows"] = set(ALLOWED) - {"losses", "blocks", "grids", "fusion", "reused"}
ALLOWED["studies"] = ALLOWED["workflows"] | {"workflows"}
ALLOWED["tables"] = ALLOWED["studies"] | {"studies"}
ALLOWED["listings"] = ALLOWED["method_list"] = ALLOWED["tables"] | {"tables"}
COMMANDS = {"cli_cache", "cli_compare", "cli_data", "cli_train"}
for name in COMMANDS:
    ALLOWED[name] = ALLOWED["listings"] | {"listings", "method_list"}
ALLOWED["cli"] = ALLOWED["cli_data"] | COMMANDS
ALLOWED["__main__"] = {"cli"}
ALLOWED["__init__"] = set(ALLOWED) - {"cli", *COMMANDS, "listings", "method_list", "tables", "__main__"}

MAX_LINES = 400
VAGUE_NAMES = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
NEVER_IMPORTED = {
    "pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "lightning",
    "hydra",
    "albumentations",
}
NEVER_CALLED = {
    "yaml.load": "use yaml.safe_load",
    "yaml.unsafe_load": "use yaml.safe_load",
    "yaml.full_load": "use yaml.safe_load",
    "torch.jit.script": "TorchScript is deprecated",
    "torch.jit.trace": "TorchScript is deprecated",
    "eval": "runs text as code",
    "exec": "runs text as code",
    "os.system": "runs a shell",
}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path: Path, line: int | None = None) -> str:
    return path.relative_to(ROOT).as_posix() + (f":{line}" if line else "")


def part(path: Path) -> str:
    """``src/sapling/methods/kd.py`` -> ``methods``."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, also inside functions, as absolute names with the line."""
    package = ("sapling", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (stem, node.module)))
            if module == "sapling":
                yield from ((f"sapling.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def calls(path: Path) -> Iterator[tuple[str, ast.Call, str]]:
    """Dotted name, node and place of every call."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node, shown(path, node.lineno)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def constant(call: ast.Call, keyword: str) -> object:
    return next((k.value.value for k in call.keywords if k.arg == keyword and isinstance(k.value, ast.Constant)), None)


def test_there_is_something_to_look_at():
    assert len(FILES) > 20
    assert SOURCE / "methods" / "kd.py" in FILES


def test_every_part_has_its_place():
    assert {part(p) for p in FILES} <= set(ALLOWED), "say in test_layers.py what the new part may import"


def test_imports_run_one_way():
    wrong = [
        f"{shown(path, line)}: {part(path)} must not import {module}"
        for path in FILES
        for module, line in imports(path)
        if module.startswith("sapling.")
        and (other := module.split(".")[1]) in ALLOWED  # else a name of the package itself, such as __version__
        and other not in {part(path), *ALLOWED.get(part(path), ())}
    ]
    assert not wrong, "\n".join(wrong)


def test_methods_know_no_network_library():
    wrong = [
        shown(path, line)
        for path in FILES
        if part(path) in ("methods", "losses", "blocks", "grids", "fusion")
        for module, line in imports(path)
        if module.split(".")[0] in ("timm", "torchvision", "accelerate")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_unsafe_is_imported():
    wrong = [
        f"{shown(path, line)} imports {module}"
        for path in FILES
        for module, line in imports(path)
        if module.split(".")[0] in NEVER_IMPORTED
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_unsafe_is_called():
    wrong = []
    for path in FILES:
        for name, call, place in calls(path):
            if name in NEVER_CALLED:
                wrong.append(f"{place}: {name}: {NEVER_CALLED[name]}")
            if name == "torch.load" and constant(call, "weights_only") is not True:
                wrong.append(f"{place}: torch.load without weights_only=True")
            if name in ("np.load", "numpy.load") and constant(call, "allow_pickle") not in (None, False):
                wrong.append(f"{place}: numpy.load with pickle")
            if constant(call, "shell") is True:
                wrong.append(f"{place}: a shell")
            if name.endswith((".extract", ".extractall")):
                wrong.append(f"{place}: paths inside an archive are not to be trusted")
    assert not wrong, "\n".join(wrong)


def test_loading_does_not_hide_behind_another_name():
    """``from torch import load`` would pass the test above."""
    wrong = [
        shown(path, node.lineno)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        and node.module in ("torch", "yaml", "numpy")
        and "load" in {alias.name for alias in node.names}
    ]
    assert not wrong, "\n".join(wrong)


def test_annotations_are_postponed():
    """A package's ``__init__`` that only imports names needs no such line."""
    plain = ast.Expr | ast.ImportFrom | ast.Import | ast.Assign
    wrong = [
        shown(path)
        for path in FILES
        if any(not isinstance(node, plain) for node in tree(path).body)
        and "from __future__ import annotations" not in path.read_text(encoding="utf-8")
    ]
    assert not wrong, "\n".join(wrong)


def test_files_are_short_and_named_for_what_they_hold():
    wrong = []
    for path in (*FILES, *OTHERS):
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > MAX_LINES:
            wrong.append(f"{shown(path)} has {count} lines; allowed: {MAX_LINES}")
        if path.name in VAGUE_NAMES:
            wrong.append(f"{shown(path)}: a name that says nothing")
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_for_later():
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    wrong = [
        shown(path, token.start[0])
        for path in (*FILES, *OTHERS)
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.COMMENT and marks.search(token.string)
    ]
    assert not wrong, "\n".join(wrong)
