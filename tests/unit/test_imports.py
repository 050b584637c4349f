"""The order of the rooms, who may import what from outside, and that importing starts nothing.

Everything is read from the sources, imports inside functions included; only the test on ray imports the modules.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "reco_ray"

# A room imports only from rooms before it and from top files; `config` is a top file that became a package.
# A new room or top file gets its place here.
ROOMS = [
    "monitoring",
    "lake",
    "store",
    "events",
    "feedback",
    "features",
    "recall",
    "rank",
    "rules",
    "rerank",
    "release",
    "streaming",
    "slate",
    "evaluation",
    "rollout",
    "privacy",
    "serve",
    "simulation",
    "workflow",
    "cli",
]
TOP_FILES = ["arrays", "cluster", "compose", "config", "consent", "errors", "hashing", "ports", "schema", "training", "types"]

# Outside package -> where it may be imported: a file, a folder (ends in "/"), or a file name in any room ("*/...").
RAY_FILES = [
    "reco_ray/*/flow.py",
    "reco_ray/*/trainer.py",
    "reco_ray/*/tuner.py",
    "reco_ray/rank/neural/trainer.py",
    "reco_ray/*/deployments.py",
    "reco_ray/*/app.py",
    "reco_ray/*/actor.py",
    "reco_ray/streaming/follower.py",
    "reco_ray/cluster.py",
    "reco_ray/training.py",
    "reco_ray/monitoring/metrics/",
    "jobs/",
]
OUTSIDE = {
    "ray": RAY_FILES,
    "hydra": ["reco_ray/compose.py", "reco_ray/cli/", "jobs/"],
    "omegaconf": ["reco_ray/compose.py", "reco_ray/cli/", "jobs/"],
    "pydantic": ["reco_ray/events/contract.py", "reco_ray/rules/document.py", "reco_ray/serve/"],
    "fastapi": ["reco_ray/events/contract.py", "reco_ray/serve/"],
    "scann": ["reco_ray/recall/index/searcher.py"],
    "xgboost": ["reco_ray/rank/"],
    "implicit": ["reco_ray/recall/training/"],
    "sklearn": ["reco_ray/recall/training/"],
    "torch": ["reco_ray/recall/training/", "reco_ray/recall/trainer.py", "reco_ray/rank/"],
    "mlflow": ["reco_ray/release/registry.py", "reco_ray/workflow/tracking.py"],
    "confluent_kafka": ["reco_ray/events/kafka.py"],
    "matplotlib": ["reco_ray/evaluation/histograms.py"],
    "redis": ["reco_ray/store/", "reco_ray/events/", "reco_ray/cluster.py", "reco_ray/serve/"],
    "typer": ["reco_ray/cli/", "reco_ray/evaluation/report.py", "jobs/"],
    "rich": ["reco_ray/cli/", "reco_ray/evaluation/report.py", "jobs/"],
}
ABOVE_ALL = ["jobs", "serve_apps", "tests", "benchmarks"]  # these import reco_ray, never the other way


@dataclass(frozen=True)
class Import:
    """One imported name of a file: ``module`` is absolute, and as deep as the statement tells."""

    path: str
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def imports_of(source: str, path: str) -> Iterator[Import]:
    """Yield all imports of a file, wherever they stand; ``path`` is relative to the repository, with forward slashes."""
    package = path.removesuffix(".py").removesuffix("/__init__").split("/")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "reco_ray" or not node.module:  # the names are modules
                for alias in node.names:
                    yield Import(path, node.lineno, f"{module}.{alias.name}")
            else:
                yield Import(path, node.lineno, module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            yield from (Import(path, node.lineno, a.value) for a in node.args[:1] if _is_text(a))


def broken_rule(found: Import) -> str | None:
    """Say which rule an import breaks, or None."""
    return _outside_rule(found) or _room_rule(found)


def _is_text(node: ast.expr) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _outside_rule(found: Import) -> str | None:
    top = found.module.split(".")[0]
    allowed = OUTSIDE.get(top)
    if allowed is None or any(_stands_in(found.path, place) for place in allowed):
        return None
    return f"{top} is imported only in {', '.join(allowed)}"


def _room_rule(found: Import) -> str | None:
    where, _, _ = found.path.partition("/")
    target = found.module.split(".")
    if where != "reco_ray":
        return None
    if target[0] in ABOVE_ALL:
        return f"reco_ray does not import {target[0]}"
    if target[0] != "reco_ray" or len(target) == 1 or target[1].startswith("__"):
        return None
    if target[1] in TOP_FILES:
        return None
    if target[1] not in ROOMS:
        return f"{target[1]} is neither a room nor a top file known to {Path(__file__).name}"
    room = found.path.split("/")[1]
    if room.endswith(".py") or room in TOP_FILES:
        return "a top file imports no room"
    if room in ROOMS and ROOMS.index(target[1]) > ROOMS.index(room):
        return f"{room} stands above {target[1]}; a room imports only from rooms above it: {', '.join(ROOMS)}"
    return None


def _stands_in(path: str, place: str) -> bool:
    if place.endswith("/"):
        return path.startswith(place)
    return re.fullmatch(re.escape(place).replace(r"\*", "[^/]+"), path) is not None


def _files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _rooms() -> list[Path]:
    return sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def test_imports_keep_to_the_order_of_rooms_and_the_table() -> None:
    files = _files("reco_ray", "jobs", "serve_apps")
    found = [each for path in files for each in imports_of(path.read_text(), _relative(path))]
    broken = [f"{each}: {rule}" for each in found if (rule := broken_rule(each))]
    assert len(found) > 50
    assert not broken, "\n".join(["", *broken])


def test_every_room_and_top_file_has_a_place() -> None:
    rooms = {path.name for path in _rooms()} - set(TOP_FILES)
    assert rooms <= set(ROOMS), f"new rooms {sorted(rooms - set(ROOMS))}: give them a place in ROOMS"
    top = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert top <= set(TOP_FILES), f"new top files {sorted(top - set(TOP_FILES))}: add them to TOP_FILES"


def test_the_readme_lists_the_rooms_in_their_order() -> None:
    assert ", ".join(ROOMS) in " ".join((ROOT / "README.md").read_text().split())


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("reco_ray/lake/tables.py", "import ray", "ray is imported only in"),
        ("reco_ray/lake/tables.py", "def f():\n    from ray import data", "ray is imported only in"),
        ("reco_ray/lake/tables.py", "import importlib\nimportlib.import_module('ray.data')", "ray is imported only in"),
        ("reco_ray/rank/model.py", "import mlflow.xgboost", "mlflow is imported only in"),
        ("serve_apps/recommend.py", "import torch", "torch is imported only in"),
        ("reco_ray/lake/tables.py", "from reco_ray.features import views", "lake stands above features"),
        ("reco_ray/lake/tables.py", "from reco_ray import features", "lake stands above features"),
        ("reco_ray/lake/tables.py", "from ..features.views import View", "lake stands above features"),
        ("reco_ray/serve/__init__.py", "from ..workflow import steps", "serve stands above workflow"),
        ("reco_ray/hashing.py", "import reco_ray.lake.tables", "a top file imports no room"),
        ("reco_ray/serve/app.py", "from serve_apps.recommend import build", "does not import serve_apps"),
        ("reco_ray/serve/app.py", "import reco_ray.cli", "serve stands above cli"),
        ("reco_ray/serve/app.py", "import reco_ray.helpers", "neither a room nor a top file"),
    ],
)
def test_a_forbidden_import_is_found(path: str, source: str, rule: str) -> None:
    assert [broken for each in imports_of(source, path) if (broken := broken_rule(each)) and rule in broken]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("reco_ray/features/flow.py", "import ray.data\nfrom reco_ray.lake import tables\nfrom .views import View"),
        ("reco_ray/cli/main.py", "import typer\nfrom reco_ray.workflow import steps\nfrom reco_ray.cli import keys"),
        ("reco_ray/slate/pipeline.py", "import reco_ray.recall\nfrom reco_ray import types, __version__"),
        ("reco_ray/recall/training/__init__.py", "from . import merge\nimport torch\nimport raypipe"),
        ("jobs/train_ranker.py", "import ray\nfrom reco_ray.workflow import steps"),
    ],
)
def test_an_allowed_import_passes(path: str, source: str) -> None:
    assert [broken for each in imports_of(source, path) if (broken := broken_rule(each))] == []


# Run in a process of its own: refuse ray to every importer, and say who in reco_ray asked for it.
_PROBE = """
import importlib, json, sys, traceback

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name == "ray":
            frames = [f for f in traceback.extract_stack() if "/reco_ray/" in f.filename and "<frozen" not in f.filename]
            asked[module] = f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].line}" if frames else "another package"
            raise ModuleNotFoundError("No module named 'ray'", name="ray")

asked, failed = {}, {}
sys.meta_path.insert(0, NoRay())
for module in json.loads(sys.argv[1]):
    try:
        importlib.import_module(module)
    except Exception as exc:
        if module not in asked:
            failed[module] = f"{type(exc).__name__}: {exc}"
print(json.dumps([asked, failed]))
"""


def test_importing_a_module_imports_ray_only_in_the_ray_files() -> None:
    paths = [path for path in _files("reco_ray") if not any(_stands_in(_relative(path), p) for p in RAY_FILES)]
    modules = [_relative(p).removesuffix(".py").removesuffix("/__init__").replace("/", ".") for p in paths]
    modules = [module for module in modules if not module.endswith("__main__")]
    asked, failed = _probe(modules)
    lines = [f"{module}: importing it imports ray, at {where}" for module, where in asked.items()]
    lines += [f"{module}: cannot be imported: {why}" for module, why in failed.items()]
    assert not lines, "\n".join(["", *lines])


def test_the_probe_sees_an_import_of_ray() -> None:
    asked, failed = _probe(["reco_ray.errors", "ray", "reco_ray.nowhere"])
    assert (set(asked), set(failed)) == ({"ray"}, {"reco_ray.nowhere"})


def test_jobs_have_at_most_40_lines() -> None:
    lengths = {_relative(path): len(path.read_text().splitlines()) for path in _files("jobs")}
    long = {path: lines for path, lines in lengths.items() if lines > 40}
    assert not long, f"jobs hold no logic and have at most 40 lines: {long}"


def test_rooms_say_what_they_are_and_what_they_offer() -> None:
    wrong = []
    for path in PACKAGE.glob("**/__init__.py"):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            wrong.append(f"{_relative(path)}:1: no docstring; expected what comes in, what goes out, who calls it")
        names = _dunder_all(tree)
        if names is None:
            wrong.append(f"{_relative(path)}:1: no __all__; expected a sorted list of names")
        elif names != sorted(names, key=_isort_key):
            wrong.append(f"{_relative(path)}: __all__ is not sorted; expected {sorted(names, key=_isort_key)}")
    assert not wrong, "\n".join(["", *wrong])


def _probe(modules: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Import modules in a new process; return those that asked for ray, and those that failed otherwise, with the reason."""
    command = [sys.executable, "-c", _PROBE, json.dumps(modules)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    asked, failed = json.loads(run.stdout.splitlines()[-1])
    return asked, failed


def _dunder_all(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))
    return None


def _isort_key(name: str) -> tuple[int, list[str | int]]:
    """The order that ruff keeps (RUF022): CONSTANTS, Classes, functions; numbers by value."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, [part.zfill(20) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
