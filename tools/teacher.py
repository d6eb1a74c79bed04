"""What a teacher needs, made from the course's own notebooks: nothing here is written twice.

    python -m tools.teacher    # or `make teacher`: build/teacher

`solutions/` holds the notebooks with every exercise solved by its folded solution, `slides/` a deck
for each notebook (reveal.js, from the web; press S for the speaker's notes), and `rubric.md` one
page with the points, the full answer and the usual mistakes of every exercise.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import tyro
from nbconvert import SlidesExporter
from nbformat import NotebookNode

from ipd_lite.course import checks
from tools.site import ROOT, course, printable, title

CHECK = re.compile(r"^checks\.(\w+)\(", re.MULTILINE)
SOLUTION = re.compile(
    r"<summary><b>Solution</b></summary>\s*```python\n(.*?)```(.*?)</details>", re.DOTALL
)
MINUTES_OF_A_POINT = 5


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook, with what its cells say."""

    title: str
    minutes: int
    check: str
    """Name of the function in `ipd_lite.course.checks`."""
    solution: str
    remark: str
    """What the folded solution says below its code."""
    cell: int
    """Place of the code cell that the reader fills."""

    @property
    def points(self) -> int:
        """One for every five minutes that were begun."""
        return math.ceil(self.minutes / MINUTES_OF_A_POINT)


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """Every exercise in order: each cell with a check, and the folded solution that follows it.

    Raises:
        ValueError: an exercise has no solution, no title or no time.
    """
    found: list[Exercise] = []
    headline = re.compile(r"^### (Exercise .+?)$.*?\*About (\d+) minutes", re.DOTALL | re.MULTILINE)
    head, waiting = None, None
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            if asked := CHECK.search(cell.source):
                waiting = (asked[1], place)
            continue
        if (folded := SOLUTION.search(cell.source)) and waiting and head:
            check, at = waiting
            parts = folded[1], folded[2].strip()
            found.append(Exercise(head[1], int(head[2]), check, *parts, at))
            waiting = head = None
        head = headline.search(cell.source) or head
    asked_for = sum(c.cell_type == "code" and bool(CHECK.search(c.source)) for c in notebook.cells)
    if len(found) != asked_for:
        raise ValueError(f"{title(notebook)}: {asked_for} checks, {len(found)} whole exercises")
    return found


def solved(notebook: NotebookNode) -> NotebookNode:
    """A copy with the solutions in the exercises' cells, whose outputs are empty."""
    result = nbformat.from_dict(notebook)
    for exercise in exercises(result):
        cell = result.cells[exercise.cell]
        rest = cell.source[CHECK.search(cell.source).start() :]
        cell.update(source=f"{exercise.solution}\n\n{rest}", outputs=[], execution_count=None)
    return result


def slide_type(cell: NotebookNode) -> str:
    """Headings begin slides, readings are for the speaker, preparations are left out."""
    source = cell.source
    if cell.cell_type == "markdown":
        if SOLUTION.search(source):
            return "skip"
        if source.startswith("**How to read it"):
            return "notes"
        return "slide" if re.match("##? ", source) else "subslide"
    if "parameters" in cell.metadata.get("tags", []) or "git clone" in source:
        return "skip"
    return "subslide"


def deck(notebook: NotebookNode) -> NotebookNode:
    """A copy that nbconvert shows as slides: a picture stands alone, without its code."""
    result = nbformat.from_dict(notebook)
    result.metadata["title"] = title(result)
    for cell in result.cells:
        cell.metadata["slideshow"] = {"slide_type": slide_type(cell)}
        if cell.cell_type == "code":
            cell.outputs = printable(cell.outputs)
            if any("image/png" in output.get("data", {}) for output in cell.outputs):
                cell.metadata["tags"] = [*cell.metadata.get("tags", []), "picture"]
    return result


def phrases(tree: ast.AST) -> Iterator[str]:
    """Every text of at least four words below `tree`; three dots stand for what is filled in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(p.value if isinstance(p, ast.Constant) else "..." for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            yield from phrases(node)
            continue
        if len(text.split()) >= 4:
            yield text


def judged(check: str) -> tuple[str, str, list[str]]:
    """A check's task, its praise and its hints, as its source has them."""
    tree = ast.parse(Path(checks.__file__).read_text(encoding="utf-8"))
    (function,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == check]
    (praise,) = [text for mark in function.decorator_list for text in phrases(mark)]
    task = (ast.get_docstring(function) or "").partition(": ")[2]
    function.decorator_list, function.body = [], function.body[1:]
    return task, praise, list(dict.fromkeys(phrases(function)))


def rubric(notebooks: dict[str, NotebookNode]) -> str:
    """The page for grading."""
    lines = [
        "# Rubric",
        "",
        f"One point for every {MINUTES_OF_A_POINT} minutes that an exercise is given. All points: "
        "the check prints `right`. Half of them: it prints `not right`, and the student explains "
        "the hint. The solutions stand below each exercise, folded, and in `solutions/`.",
    ]
    total = 0
    for notebook in notebooks.values():
        if found := exercises(notebook):
            lines += ["", f"## {title(notebook)}"]
        for exercise in found:
            task, praise, hints = judged(exercise.check)
            total += exercise.points
            points = f"{exercise.points} point{'s' if exercise.points > 1 else ''}"
            lines += ["", f"### {exercise.title} ({points}, {exercise.minutes} minutes)", ""]
            lines += [f"**Asked**: {task}", "", f"**A full answer shows**: {praise}"]
            lines += ["", exercise.remark] if exercise.remark else []
            lines += ["", "**Usual mistakes**", "", *(f"- {hint}" for hint in hints)]
    return "\n".join([*lines, "", f"**In all**: {total} points.", ""])


def main(out: Path = ROOT / "build" / "teacher") -> None:
    """Write solutions, slides and the rubric into the folder `out`."""
    exporter = SlidesExporter(
        template_file="slides.html.j2",
        extra_template_paths=[str(ROOT / "tools")],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        reveal_scroll=True,
    )
    exporter.register_preprocessor("nbconvert.preprocessors.TagRemovePreprocessor", enabled=True)
    exporter._preprocessors[-1].remove_input_tags = {"picture"}
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in course()}
    for folder in ("solutions", "slides"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for name, notebook in notebooks.items():
        nbformat.write(solved(notebook), out / "solutions" / f"{name}.ipynb")
        html, _ = exporter.from_notebook_node(deck(notebook))
        (out / "slides" / f"{name}.html").write_text(html, encoding="utf-8")
    (out / "rubric.md").write_text(rubric(notebooks), encoding="utf-8")
    print(out)


if __name__ == "__main__":
    tyro.cli(main)
