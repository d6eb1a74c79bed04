"""Which wing may import which, how large the paper is, and what no file may hold."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ipd_lite"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
# What a wing may import besides itself; "cli" and "course" are imported by nobody.
WINGS: dict[str, set[str]] = {
    "suggestions": set(),
    "process": set(),
    "files": set(),
    "paper": {"files"},
    "plots": set(),
    "rivals": {"files", "paper"},
    "data": {"files", "paper"},
}
WINGS["settings"] = {"files", "paper", "rivals", "data", "suggestions"}
WINGS["tasks"] = WINGS["settings"] | {"settings"}
WINGS["study"] = WINGS["tasks"] | {"tasks"}
WINGS["report"] = WINGS["study"] | {"study", "plots"}
WINGS["course"] = WINGS["report"] | {"report"}
WINGS["cli"] = WINGS["course"] - {"plots"} | {"process"}
LIBRARIES = {
    "paper": {"torch", "numpy", "tqdm"},
    "plots": {"numpy", "pandas", "matplotlib", "seaborn", "PIL", "IPython"},
}
PAPER_LINES, FUNCTION_LINES, MODULE_LINES, EXCEPTIONS = 3_300, 40, 400, 20


def wing(module: str) -> str:
    return module.split(".")[0]


def imported(module: str) -> set[str]:
    """Everything that `module` imports anywhere, inside functions too, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative imports hide what the table checks"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def own(names: set[str]) -> set[str]:
    """The package's modules among imported names."""
    stripped = {name.removeprefix("ipd_lite.") for name in names if name.startswith("ipd_lite.")}
    found = {name for name in stripped if name in MODULES}
    return found | ({"plots.style"} if "plots" in stripped else set())  # its __init__ has names


def test_the_graph_is_read_correctly() -> None:
    """Guards the other tests: known imports of every kind are seen."""
    assert {"paper.nets", "paper.dataset", "paper.training"} <= own(imported("paper.values"))
    assert "torch" in imported("paper.values")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_the_house(module: str) -> None:
    allowed = WINGS[wing(module)] | {wing(module)}
    above = {name for name in own(imported(module)) if wing(name) not in allowed}
    assert not above, f"{module} may import from {', '.join(sorted(allowed))}, not {above}"


@pytest.mark.parametrize("module", MODULES)
def test_no_circle(module: str) -> None:
    found: set[str] = set()
    waiting = own(imported(module))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting |= own(imported(name))
    assert module not in found


@pytest.mark.parametrize("module", [m for m in MODULES if wing(m) in LIBRARIES])
def test_the_paper_and_the_plots_need_few_libraries(module: str) -> None:
    roots = {name.split(".")[0] for name in imported(module)} - {"ipd_lite", ""}
    others = roots - LIBRARIES[wing(module)] - set(sys.stdlib_module_names)
    assert not others


@pytest.mark.parametrize("module", MODULES)
def test_modules_can_be_read_at_a_sitting(module: str) -> None:
    if module != "course.checks":
        assert len(MODULES[module].read_text().splitlines()) <= MODULE_LINES


def test_the_formatter_is_rarely_overruled() -> None:
    folders = (PACKAGE, ROOT / "tests", ROOT / "tools")
    texts = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
    assert sum(text.count("# fmt: " + "skip") for text in texts) <= EXCEPTIONS


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_the_paper_stays_small() -> None:
    texts = {m: path.read_text() for m, path in MODULES.items() if wing(m) == "paper"}
    assert sum(len(text.splitlines()) for text in texts.values()) <= PAPER_LINES
    long = {
        f"{module}.{node.name}": body_lines(node)
        for module, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and body_lines(node) > FUNCTION_LINES
    }
    assert not long


def test_planners_know_no_reinforcement_learning() -> None:
    assert own(imported("paper.planning")) <= {"paper.training"}


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
