"""The teacher's kit: solutions that pass, slides with words, a rubric that knows the mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch

from ipd_lite.course import checks
from tests.test_checks import WRONG
from tests.test_site import Page
from tools import teacher
from tools.site import NOTEBOOKS, WIDGET, course

NAMES = [path.stem for path in course()]
every_notebook = pytest.mark.parametrize("name", NAMES)
GENERAL = ("TypeError", "shape", "expected a tensor", "no entry")
"""Hints that a check shares with all others."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    teacher.main(out)
    return out


def cells(path: Path) -> list[dict[str, Any]]:
    """nbformat joins the lines, which a file may cut in more than one way."""
    found: list[dict[str, Any]] = nbformat.read(path, as_version=4)["cells"]
    return found


def source(cell: dict[str, Any]) -> str:
    return str(cell["source"])


@every_notebook
def test_every_solution_passes_its_check(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cell by cell, up to the check, in the words of the solved notebook."""
    capsys.readouterr()
    passed = 0
    for cell in cells(folder / "solutions" / f"{name}.ipynb"):
        asked = re.search(r"^checks\.\w+\(.*\)$", source(cell), re.MULTILINE)
        if cell["cell_type"] == "code" and asked:
            exec(source(cell)[: asked.end()], {"torch": torch, "np": np, "checks": checks})
            assert capsys.readouterr().out.startswith("right: "), source(cell)
            passed += 1
    original = cells(NOTEBOOKS / f"{name}.ipynb")
    assert passed == sum("\nchecks." in source(c) for c in original if c["cell_type"] == "code")


@every_notebook
def test_only_the_exercises_differ(name: str, folder: Path) -> None:
    before = cells(NOTEBOOKS / f"{name}.ipynb")
    after = cells(folder / "solutions" / f"{name}.ipynb")
    assert [cell["id"] for cell in before] == [cell["id"] for cell in after]
    for old, new in zip(before, after, strict=True):
        if "\nchecks." in source(old) and old["cell_type"] == "code":
            assert source(old) != source(new) and not new["outputs"]
            assert source(old).split("\nchecks.")[1] == source(new).split("\nchecks.")[1]
        else:
            assert source(old) == source(new) and old.get("outputs") == new.get("outputs")


def test_an_exercise_without_a_solution_is_refused() -> None:
    notebook = nbformat.read(course()[1], as_version=4)
    for cell in notebook.cells:
        if "<b>Solution</b>" in cell.source:
            cell.source = ""
            break
    with pytest.raises(ValueError, match=r"01 .* 3 checks, 2 whole exercises"):
        teacher.exercises(notebook)


@every_notebook
def test_slides(name: str, folder: Path) -> None:
    page = Page(folder / "slides" / f"{name}.html")
    saved = [output for c in cells(NOTEBOOKS / f"{name}.ipynb") for output in c.get("outputs", [])]
    pictures = [o for o in saved if "image/png" in o.get("data", {})]
    alts = [alt for alt in page.every("img", "alt") if alt not in ("Binder", "Colab")]
    assert alts == [o["metadata"]["image/png"]["alt"] for o in pictures]
    assert page.count("section") > 20
    assert "<b>Solution" not in page.text and "VBox(" not in page.text and "it/s]" not in page.text
    widgets = sum(WIDGET in output.get("data", {}) for output in saved)
    assert page.text.count("this picture has controls") == widgets
    readings = sum(
        source(c).startswith("**How to read it") for c in cells(NOTEBOOKS / f"{name}.ipynb")
    )
    assert list(page.every("aside", "class")).count("notes") == readings


def test_rubric_has_every_exercise(folder: Path) -> None:
    page = (folder / "rubric.md").read_text(encoding="utf-8")
    parts = re.split(r"^### ", page, flags=re.MULTILINE)[1:]
    headings = [
        re.findall(r"^### (Exercise .+)$", source(cell), re.MULTILINE)
        for path in course()
        for cell in cells(path)
        if cell["cell_type"] == "markdown"
    ]
    assert [part.split(" (")[0] for part in parts] == [h for found in headings for h in found]
    points = 0
    for part in parts:
        got, minutes = map(int, re.findall(r"\((\d+) points?, (\d+) minutes\)", part)[0])
        assert 5 * (got - 1) < minutes <= 5 * got
        points += got
        assert part.split("**A full answer shows**: ")[1].strip()
        assert part.split("**Usual mistakes**")[1].count("\n- ") >= 2
    assert page.rstrip().endswith(f"**In all**: {points} points.")


@pytest.mark.parametrize(("check", "hint"), [(check, hint) for check, _, hint in WRONG])
def test_rubric_knows_the_planted_mistakes(check: str, hint: str) -> None:
    if hint not in GENERAL:
        _, _, hints = teacher.judged(check)
        assert any(hint in known for known in hints)


PAGE = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")


def minutes_of_notebooks() -> dict[str, int]:
    return {name: int(m) for name, m in re.findall(r"^\| (0\d) \|.*\| (\d+) \|$", PAGE, re.M)}


def assert_fits(taught: dict[str, int], needed: dict[str, int]) -> None:
    """Every notebook has its hour; what a schedule cannot hold is said to be homework."""
    assert taught.keys() == needed.keys()
    assert all(min(60, needed[name]) - 30 <= taught[name] <= needed[name] + 5 for name in taught)
    assert any(taught[n] < needed[n] for n in taught) == ("is homework" in PAGE)


def test_the_day_adds_up_and_has_breaks() -> None:
    rows = re.findall(r"^\| (\d+):(\d\d) \| (.+?) \| (\d+) \|(.*)\|$", PAGE, re.MULTILINE)
    starts = [60 * int(hours) + int(minutes) for hours, minutes, *_ in rows]
    lengths = [int(row[3]) for row in rows]
    assert starts[1:] == [s + n for s, n in zip(starts, lengths, strict=True)][:-1]
    assert f"At {divmod(starts[-1] + lengths[-1], 60)[0]}:" in PAGE
    taught = {row[2][:2]: int(row[3]) for row in rows if row[2][0] == "0"}
    assert_fits(taught, {n: m for n, m in minutes_of_notebooks().items() if n != "07"})
    at_a_stretch = 0
    for _, _, what, length, skip in rows:
        at_a_stretch = at_a_stretch + int(length) if what[0] == "0" else 0
        assert at_a_stretch <= 90, "nobody listens for longer"
        assert what[0] != "0" or skip.strip(), f"{what}: name what to skip"


def test_the_sessions_add_up() -> None:
    rows = re.findall(r"^\| [123] \| (.*?) \|", PAGE, re.MULTILINE)
    assert len(rows) == 3
    taught: dict[str, int] = {}
    for row in rows:
        parts = {name: int(length) for name, length in re.findall(r"(\w+) \((\d+)\)", row)}
        assert sum(parts.values()) == 150 and parts["break"] >= 10
        taught |= parts
    del taught["break"]
    assert_fits(taught, minutes_of_notebooks())


def test_what_may_be_skipped_exists() -> None:
    """Every quoted part of the schedules is a heading of its notebook."""
    schedules = PAGE.split("## Schedules")[1].split("\n## ")[0]
    headings = {
        path.stem[:2]: "\n".join(
            h for cell in cells(path) for h in source(cell).splitlines() if h.startswith("##")
        )
        for path in course()
    }
    for row in re.findall(r"^\|.*\|$", schedules, re.MULTILINE):
        name = ""
        for word, quoted in re.findall(r'(?:\b(0\d)\b)|"(.+?)"', row.replace("9:00", "")):
            name = word or name
            assert word or quoted in headings[name], (name, quoted)
