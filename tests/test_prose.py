"""Measured numbers in the notebooks' prose are the run's own.

A number with a decimal point or a percent sign is a measurement, and a cell of the same section
printed it, with at least as many digits. Free are numbers inside `code` and $mathematics$, which
are settings and theory, and what follows a name and "=", as in tau = 0.9.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_notebooks import NOTEBOOKS, cells, text

EVERYWHERE = {"3.1", "3.2", "3.3", "3.4", "95 %", "0.5"}
"""The paper's sections, the level of every interval, a coin (and the recordings' noise)."""

CONSTANTS = {
    "00-10": {"0.4"},  # the share of its force that the recordings' controller uses
    "01-06": {"0.01", "0.05"},  # seconds of a simulator step and of a decision
    "01-12": {"0.45"},  # metres of the goal's radius
    "01-38": {"0.4"},
    "02-10": {"0.98"},  # the slider's last tau
    "03-22": {"0.25"},  # what the check asks about
    "03-28": {"68 %"},  # one standard deviation
    "a743adaa": {"0.99", "0.997"},  # two discounts
    "06-11": {"2.5", "97.5"},  # the ends of an interval of 95 %
    "07-20": {"0.97"},  # discount
    "07-27": {"0.1"},  # a rule of thumb
}
"""Numbers that no run measures, by their cell's id."""

MEASURED = re.compile(r"(?<![\w.=/-])(\d+\.\d+|\d+(?= ?%))( ?%)?(?![\w.]*\d)")
PRINTED = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?%?")


def prose(cell: dict[str, Any]) -> str:
    """A text without code, mathematics, folded parts and addresses."""
    free = (
        r"<details>.*?</details>",
        r"```.*?```",
        r"\$\$.*?\$\$",
        r"\$[^$]+\$",
        r"`[^`]*`",
        r"\]\([^)]*\)",
        r"\(\d\.\d\)|Sections? \d\.\d",
        r"\w+ = -?[\d.]+",
    )
    return re.sub("|".join(free), " ", text(cell), flags=re.DOTALL)


def printed(cell: dict[str, Any]) -> str:
    """The text that a cell left: its prints and tables, not the words of its pictures."""
    parts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if output["output_type"] == "stream" and output["name"] == "stdout":
            parts.append("".join(output["text"]))
        elif "text/markdown" in data:
            parts.append("".join(data["text/markdown"]))
    return "\n".join(parts)


def sections(everything: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The cells between two headings of the second level, without the first and the last cell."""
    section: list[dict[str, Any]] = []
    for cell in everything[1:-1]:
        if cell["cell_type"] == "markdown" and re.match("## ", text(cell)) and section:
            yield section
            section = []
        section.append(cell)
    yield section


def shown(number: str, percent: bool, values: list[tuple[float, bool]]) -> bool:
    """Whether one of the printed values is this number, rounded to its digits."""
    digits = len(number.partition(".")[2])
    for value, has_sign in values:
        scaled = 100 * value if percent and not has_sign else value
        if has_sign <= percent and f"{abs(scaled):.{digits}f}" == number:
            return True
    return False


def unsupported(everything: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(id of the cell, number) of everything that no output of its section shows."""
    found = []
    for section in sections(everything):
        outputs = "\n".join(printed(cell) for cell in section)
        values = [(float(n.rstrip("%")), n.endswith("%")) for n in PRINTED.findall(outputs)]
        for cell in section:
            if cell["cell_type"] != "markdown":
                continue
            for match in MEASURED.finditer(prose(cell)):
                free = match[0] in EVERYWHERE | CONSTANTS.get(cell["id"], set())
                if not free and not shown(match[1], bool(match[2]), values):
                    found.append((cell["id"], match[0]))
    return found


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@every_notebook
def test_numbers_are_the_run_s_own(path: Path) -> None:
    assert unsupported(cells(path)) == []


def test_no_constant_is_listed_for_nothing() -> None:
    texts = {cell["id"]: prose(cell) for path in NOTEBOOKS for cell in cells(path, "markdown")}
    for cell, numbers in CONSTANTS.items():
        assert numbers <= {match[0] for match in MEASURED.finditer(texts[cell])}, cell


def section_about(reading: str, output: str = "score 103.62, share 0.374, 14% more") -> Any:
    written = {"cell_type": "markdown", "id": "a", "source": [f"**How to read it.** {reading}"]}
    stream = {"output_type": "stream", "name": "stdout", "text": [output]}
    code = {"cell_type": "code", "id": "b", "source": ["print()"], "outputs": [stream]}
    edge = {"cell_type": "markdown", "id": "c", "source": ["99.9 %"]}
    return [edge, code, written, edge]


@pytest.mark.parametrize(
    "reading",
    [
        "103.6 of 110",
        "37 % and 37.4%",
        "14 %",
        "0.37",
        "tau = 0.123",
        "`0.77`",
        "$0.77$",
        "Section 3.2",
        "a version 1.2.3",
    ],
)
def test_a_number_that_was_printed_is_accepted(reading: str) -> None:
    assert unsupported(section_about(reading)) == []


@pytest.mark.parametrize("reading", ["103.7", "103.0", "38 %", "0.38", "15 %"])
def test_a_number_that_was_not_printed_is_found(reading: str) -> None:
    assert unsupported(section_about(reading)) == [("a", reading)]


def test_another_section_does_not_count() -> None:
    *start, end = section_about("103.6")
    heading = {"cell_type": "markdown", "id": "d", "source": ["## Another\nscores 103.6"]}
    assert unsupported([*start, heading, end]) == [("d", "103.6")]
