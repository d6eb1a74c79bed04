"""Who may import whom, and what no file of the repository may hold."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ipd_lite"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
TRAINING = {
    "iql",
    "world_model",
    "imagine",
    "distill",
    "baselines",
    "actor_critic",
    "pipeline",
    "methods",
    "experiments",
    "collect",
}


def imported(module: str) -> set[str]:
    """Modules of the package that `module` imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = ("ipd_lite." if node.level else "") + (node.module or "")
            names = [origin, *(f"{origin.rstrip('.')}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("ipd_lite.")}
    return found & set(MODULES)


def reachable(module: str) -> set[str]:
    """Everything that importing `module` brings along."""
    found: set[str] = set()
    waiting = imported(module)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting |= imported(name)
    return found


def test_the_graph_is_read_correctly() -> None:
    """Guards the other tests: known imports of every kind are seen."""
    assert {"nets", "data", "config", "runs"} <= imported("iql")
    assert "mazes" in imported("tasks")
    assert "mazes" in reachable("collect")


@pytest.mark.parametrize("module", MODULES)
def test_no_import_cycle(module: str) -> None:
    assert module not in reachable(module)


@pytest.mark.parametrize("module", ["uncertainty", "segments", "transformer", "nets", "config"])
def test_imports_no_sibling(module: str) -> None:
    assert imported(module) == set()


@pytest.mark.parametrize("module", ["plots", "paper_plots", "widgets"])
def test_drawing_brings_no_training_code_along(module: str) -> None:
    assert not reachable(module) & TRAINING


def test_planners_know_no_reinforcement_learning() -> None:
    assert imported("planners") <= {"config"}


@pytest.mark.parametrize("module", MODULES)
def test_stages_do_not_know_who_calls_them(module: str) -> None:
    callers = {
        "cli", "course", "demo", "report", "survey", "sweep", "tables", "figures", "pipeline",
        "methods", "experiments",
    }  # fmt: skip
    if module not in callers | {"__main__"}:
        assert not imported(module) & callers


def tracked_files() -> list[Path]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


# A slash, one of these folders and a slash, unless it is the middle of a longer path or address.
MACHINE_PATH = re.compile(rb"(?<![\w.~$})-])/(?:work|root|tmp|home|Users|var/folders)/")


@pytest.mark.parametrize("text", [b'"/%s/x"', b" /%s/main", b"=/%s/x", b"file:///%s/x"])
@pytest.mark.parametrize("folder", [b"work", b"root", b"tmp", b"home"])
def test_machine_paths_are_recognized(text: bytes, folder: bytes) -> None:
    assert MACHINE_PATH.search(text % folder)
    assert not MACHINE_PATH.search(b"https://example.org/" + folder + b"/x")


def test_no_tracked_file_holds_a_machine_path() -> None:
    holding = [
        f"{path.relative_to(ROOT)}: {found.group().decode()}"
        for path in tracked_files()
        if (found := MACHINE_PATH.search(path.read_bytes()))
    ]
    assert not holding
