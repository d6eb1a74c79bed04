"""The notebooks as documents: structure, sizes, exercises and their folded solutions.

That they run is checked elsewhere: `make test-notebooks` executes every cell (nbval), `make
test-browser` does so in a real JupyterLab, and test_teacher.py runs the folded solutions.
"""

from __future__ import annotations

import ast
import json
import re
import statistics
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from ipd_lite.course import checks
from tools import teacher

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
WITHOUT_WIDGET = {"07_your_own_dataset"}

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    found = json.loads(path.read_text())["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def lines(cell: dict[str, Any]) -> int:
    return sum(bool(line.strip()) for line in text(cell).splitlines())


def python(cell: dict[str, Any]) -> str:
    """Source that Python can parse: IPython's own commands (% and !) stand for nothing."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", text(cell), flags=re.MULTILINE)


def tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_format(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in notebook["metadata"], "saved widget state is heavy and never shown"
    assert path.stat().st_size < 1_000_000
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def test_one_parameters_cell(path: Path) -> None:
    tagged = [cell for cell in cells(path, "code") if "parameters" in tags(cell)]
    assert len(tagged) == 1
    assert tagged[0] is not None and tagged[0] == cells(path, "code")[0]
    assert 'PRESET = os.environ.get("IPD_PRESET", "lesson")' in text(tagged[0])


def test_first_cell_says_what_to_expect(path: Path) -> None:
    first = cells(path)[0]
    assert first["cell_type"] == "markdown"
    for heading in ("After this notebook you can", "**Time**", "**You need**", "**Paper**", "GPU"):
        assert heading in text(first)
    assert len(re.findall(r"^- \*\w+\*", text(first), re.MULTILINE)) >= 3, "goals begin with a verb"
    assert f"notebooks/{path.name}" in text(first), "badges lead to this very notebook"
    assert re.search(r"\d+ (minute|second)s? .*Computing: [^@]*(minute|second)", text(first))


def test_last_cell_sums_up(path: Path) -> None:
    last = cells(path)[-1]
    assert last["cell_type"] == "markdown"
    assert "## Summary" in text(last)
    assert "### What we changed from the paper" in text(last)
    assert text(last).count("<details>") == text(last).count("</details>") == 5


def test_more_words_than_code(path: Path) -> None:
    everything, code = cells(path), cells(path, "code")
    words = sum(len(text(cell).split()) for cell in cells(path, "markdown"))
    assert 30 <= len(everything) <= 60
    assert len(code) < len(everything) / 2
    assert 1500 <= words <= 2900
    assert sum(map(lines, code)) <= 300
    assert max(map(lines, code)) <= 25
    assert 4 <= statistics.median(map(lines, code)) <= 12


def test_equations(path: Path) -> None:
    count = sum(text(cell).count("$$") for cell in cells(path, "markdown"))
    assert count % 2 == 0
    if path.stem not in {"00_map_of_the_paper", "07_your_own_dataset"}:
        assert 3 <= count // 2 <= 7


def test_code_parses_and_lines_are_short(path: Path) -> None:
    for cell in cells(path, "code"):
        ast.parse(python(cell))
        assert max(map(len, text(cell).splitlines()), default=0) <= 100, text(cell)


def test_figures_come_from_the_package(path: Path) -> None:
    """No plotting code hides in a notebook."""
    for cell in cells(path, "code"):
        assert "matplotlib" not in text(cell)
        assert not re.search(r"\bplt\.|\bax\.(plot|scatter|imshow|hist)", text(cell))


def test_every_figure_is_shown_with_words(path: Path) -> None:
    """`plots.show(figure, alt)` is the one way to a picture, and `alt` says what is to be seen."""
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(python(cell))):
            if isinstance(node, ast.Expr) and "plots." in ast.unparse(node).split("(")[0]:
                assert ast.unparse(node).startswith(("plots.show(", "plots.style(")), text(cell)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "plots.show":
                assert len(node.args) == 2 and len(ast.unparse(node.args[1])) > 50, text(cell)


def test_saved_pictures_have_words(path: Path) -> None:
    for cell in cells(path, "code"):
        for output in cell["outputs"]:
            for kind in output.get("data", {}):
                if kind.startswith("image/"):
                    alt = output["metadata"][kind]["alt"]
                    assert len(alt) > 50 and "".join(output["data"]["text/plain"]) == alt


def test_a_public_clone_finds_its_results(path: Path) -> None:
    """On Colab only the notebook is there: package and committed results come by git."""
    (setup,) = [text(cell) for cell in cells(path, "code") if "git clone" in text(cell)]
    for line in ("!git clone -q --depth 1 https://", "%cd -q ipd-lite", "%pip install -q "):
        assert line in setup
    if "%pip install -q ." not in setup:  # what Colab brings stays as it is
        assert "%pip install -q -r notebooks/colab.txt\n    %pip install -q --no-deps ." in setup
    assert setup.startswith("try:\n    import ipd_lite\nexcept ImportError:")


def test_one_widget(path: Path) -> None:
    used = [cell for cell in cells(path, "code") if re.search(r"\bwidgets\.\w+\(", text(cell))]
    assert used or path.stem in WITHOUT_WIDGET


def test_links_lead_somewhere(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(((?!https?:)[^)#]+)", text(cell)):
            assert (FOLDER / target).exists(), target


def test_saved_outputs_are_complete(path: Path) -> None:
    """All code cells were executed in order, or none; and none failed."""
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts in ([None] * len(counts), list(range(1, len(counts) + 1)))
    for cell in cells(path, "code"):
        assert all(output["output_type"] != "error" for output in cell["outputs"])
        streams = [output for output in cell["outputs"] if output["output_type"] == "stream"]
        assert len({output["name"] for output in streams}) == len(streams), "bars are coalesced"
        assert not any("\r" in "".join(output["text"]) for output in streams)


def test_locomotion_has_its_part(path: Path) -> None:
    """Notebooks 04 to 06 leave the maze: a robot's values, plans, tokens and scores."""
    if path.stem[:2] in {"04", "05", "06"}:
        code = "\n".join(text(cell) for cell in cells(path, "code"))
        assert "GYM_EXAMPLE" in code or "robots" in code
        assert any("robot" in text(cell) for cell in cells(path, "markdown"))


def exercises(path: Path) -> list[tuple[str, str]]:
    """(name of the check, code of the folded solution) in order."""
    found = teacher.exercises(nbformat.read(path, as_version=4))
    return [(exercise.check, exercise.solution) for exercise in found]


def test_exercises_are_left_to_the_reader(path: Path) -> None:
    assert len(exercises(path)) >= 2
    for cell in cells(path, "code"):
        if re.search(r"^checks\.\w+\(", text(cell), re.MULTILINE):
            assert "NotImplementedError" in text(cell) or "..." in text(cell)


def test_stubs_are_called_unsolved(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    for cell in cells(path, "code"):
        if not re.search(r"^checks\.\w+\(", text(cell), re.MULTILINE):
            continue
        stub = re.split(r"^checks\.", text(cell), flags=re.MULTILINE)[0]
        name = re.findall(r"^checks\.(\w+)\(", text(cell), re.MULTILINE)[0]
        scope: dict[str, Any] = {"torch": torch, "np": np, "checks": checks}
        exec(stub, scope)
        getattr(checks, name)(scope[name])
        assert capsys.readouterr().out.startswith("not yet: ")
