"""The Markdown pages: links lead somewhere, pictures have words, numbers and commands are true."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from ipd_lite.cli import main

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "figures"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *FIGURES.glob("README.md"),
        *(ROOT / "notebooks").glob("*.md"),
        *(ROOT / "ipd_lite").rglob("*.md"),
        *(ROOT / "tests").rglob("*.md"),
    ]
)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def anchors(page: Path) -> set[str]:
    """Addresses of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Header and rows of every table."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        header, _, *body = [[cell.strip() for cell in row] for row in rows]
        yield header, body


def label(cell: str) -> str:
    """The method of a row: what stands in backticks, else the whole cell."""
    found = re.search(r"`(.+?)`", cell)
    return found[1] if found else cell


@cache
def committed(name: str) -> dict[str, list[str]]:
    """A table of figures/: method -> cells."""
    _, rows = next(tables((FIGURES / name).read_text()))
    return {row[1]: row for row in rows} if name.startswith("scores") else {r[0]: r for r in rows}


def test_there_are_pages() -> None:
    assert len(PAGES) >= 7


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[.+\]: (\S+)", text, re.M):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: no heading for {link}"


@every_page
def test_pictures_have_words(page: Path) -> None:
    assert all(len(alt) > 30 for alt in re.findall(r"!\[(.*?)\]\(", page.read_text()))


@every_page
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text()
    with pytest.raises(SystemExit):
        main(["--help"])
    helped = set(re.findall(r"[a-z0-9-]+", capsys.readouterr().out))
    for command in re.findall(r"(?:^|`)ipd-lite ([a-z][a-z0-9-]*)", text, re.MULTILINE):
        assert command in helped, f"{page.name}: ipd-lite {command}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE)) <= targets
    for script in re.findall(r"python (\S+\.py)", text):
        assert (ROOT / script).exists(), f"{page.name}: {script}"


def test_readme_is_short_and_shows_what_it_is() -> None:
    page = ROOT / "README.md"
    assert page.stat().st_size <= 6_000
    start = page.read_text().split("## Does it work?")[0]
    assert "![" in start and "make demo" in start and "make lab" in start


def test_readme_says_first_what_could_not_be_checked() -> None:
    text = (ROOT / "README.md").read_text().split("## What does not hold")[1]
    assert text.strip().startswith("- **The paper's full text was not at hand.**")


def test_readme_leads_to_every_notebook() -> None:
    text = (ROOT / "README.md").read_text()
    for notebook in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert text.count(f"notebooks/{notebook.name}") == 2, notebook.name  # here and on Colab


def test_readme_shows_the_committed_scores() -> None:
    header, rows = next(t for t in tables((ROOT / "README.md").read_text()) if len(t[0]) == 5)
    groups, _ = next(tables((FIGURES / "groups.md").read_text()))
    assert header[1::2] == groups[1:5:2]  # which group, of how many tasks
    assert len(rows) == 6
    for row in rows:
        assert row[1:] == committed("groups.md")[label(row[0])][1:5]


@pytest.mark.parametrize("name", ["mazes.md", "groups.md"])
def test_results_show_the_committed_tables(name: str) -> None:
    assert (FIGURES / name).read_text() in (FIGURES / "README.md").read_text(), f"copy {name}"


def test_results_show_the_scores_of_their_tasks() -> None:
    """A column named after a task holds its last scores, by the method in the first cell."""
    compared = 0
    for header, rows in tables((FIGURES / "README.md").read_text()):
        for column, task in enumerate(header):
            if header[0] or not (FIGURES / f"scores-{task}.md").exists():
                continue
            for row in rows:
                if label(row[0]) in committed(f"scores-{task}.md"):
                    assert row[column] == committed(f"scores-{task}.md")[label(row[0])][3], row
                    compared += 1
    assert compared > 80


def test_results_show_the_runs_inside() -> None:
    """Lowest and highest of the seeds."""
    compared = 0
    for header, rows in tables((FIGURES / "README.md").read_text()):
        for row in rows:
            if header[1:2] == ["task"]:
                found = inside(row[1]).query(f"method == '{label(row[0])}'")
                wanted = [found["imagined_gain"], found["replayed_gain"]]
                cells = row[2:]
            elif header[1].startswith("pointmaze") and label(row[0]) in inside(header[1]):
                wanted = [inside(t).query("method == 'ipd'")[label(row[0])] for t in header[1:]]
                cells = row[1:]
            else:
                continue
            for cell, values in zip(cells, wanted, strict=True):
                ends = [float(end) for end in cell.split(" to ")]
                digits = len(cell.partition(" ")[0].partition(".")[2])
                assert ends == pytest.approx([values.min(), values.max()], abs=0.51 * 10**-digits)
                compared += 1
    assert compared == 28


def inside(task: str) -> pd.DataFrame:
    return pd.read_csv(FIGURES / "data" / f"inside-{task}.csv")


def test_silences_of_the_paper_are_all_listed() -> None:
    """Modules with the comment, and modules in the table of the page, are the same."""
    page = (ROOT / "ipd_lite" / "paper" / "README.md").read_text()
    (rows,) = [rows for header, rows in tables(page) if header[-1] == "where"]
    listed = {name for row in rows for name in re.findall(r"`([\w.]+)`", row[-1])}
    marked = {
        ".".join(path.relative_to(ROOT / "ipd_lite").with_suffix("").parts)
        for path in (ROOT / "ipd_lite").rglob("*.py")
        if "PAPER SILENT" in path.read_text()
    }
    assert listed == marked


def test_every_module_of_the_paper_is_in_its_table() -> None:
    folder = ROOT / "ipd_lite" / "paper"
    _, rows = next(tables((folder / "README.md").read_text()))
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    assert listed == {path.stem for path in folder.glob("*.py")} - {"__init__"}
    for name in listed:
        assert importlib.import_module(f"ipd_lite.paper.{name}").__doc__


def test_datasets_stand_on_their_page_as_committed() -> None:
    """Ours (D4RL's) of the four columns, row by row."""
    page = (ROOT / "ipd_lite" / "tasks" / "README.md").read_text()
    (rows,) = [rows for header, rows in tables(page) if header[-1] == "terminated"]
    found = pd.read_csv(FIGURES / "data" / "datasets.csv", dtype=str).fillna("-")
    expected = [
        [
            f"`{row.task}`",
            f"{row.mean_ours} ({row.mean_d4rl})",
            f"{row.best_ours} ({row.best_d4rl})",
            f"{row.episodes_ours} ({row.episodes_d4rl})",
            row.terminated_ours,
        ]
        for row in found.itertuples()
    ]
    assert rows == expected


def test_minutes_are_those_that_the_notebooks_name() -> None:
    for page in (ROOT / "README.md", ROOT / "notebooks" / "README.md"):
        for notebook in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
            first = "".join(json.loads(notebook.read_text())["cells"][0]["source"])
            (minutes,) = re.findall(r"\*\*Time\*\* (\d+) minutes", first)
            (row,) = [
                line
                for line in page.read_text().splitlines()
                if line.startswith("|") and notebook.name in line
            ]
            assert f"| {minutes} |" in row, (page.name, notebook.name)
