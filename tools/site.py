"""The course as web pages, from the notebooks as they are committed: nothing is run.

    python -m tools.site    # or `make site`: build/site/index.html

Every picture keeps its alternative text, animations play, widgets leave their still picture, and
links between notebooks lead from page to page. Equations are set by MathJax, from the web.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import tyro
from nbconvert import HTMLExporter
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
REPOSITORY = "https://github.com/ipd-lite/ipd-lite/blob/main"
LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
PICTURES = {".png", ".gif", ".svg", ".jpg"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def course() -> list[Path]:
    """The notebooks in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def title(notebook: NotebookNode) -> str:
    """The notebook's first heading."""
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def addressed(source: str, out: Path) -> str:
    """Markdown whose links lead to pages of the site or to copied files, else to the repository."""

    def target(found: re.Match[str]) -> str:
        picture, words, path, anchor = found.groups(default="")
        file = (NOTEBOOKS / path).resolve()
        if file.suffix in PICTURES and picture:
            shutil.copy(file, out)
            address = file.name
        elif file.parent == NOTEBOOKS and file.suffix == ".ipynb":
            address = f"{file.stem}.html"
        else:
            address = f"{REPOSITORY}/{file.relative_to(ROOT).as_posix()}"
        return f"{picture}{words}({address}{anchor})"

    return LINK.sub(target, source)


def printable(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """A cell's outputs without progress bars and without controls, whose pictures say so."""
    kept, controls = [], False
    for output in outputs:
        if WIDGET in output.get("data", {}):
            controls = True
        elif output.get("name") != "stderr":
            if controls and "image/png" in output.get("data", {}):
                output.metadata["image/png"]["controls"] = True
            kept.append(output)
    return kept


def page(exporter: HTMLExporter, notebook: NotebookNode, menu: list[Any], out: Path) -> str:
    """One page of HTML."""
    notebook.metadata["title"] = title(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = addressed(cell.source, out)
        else:
            cell.outputs = printable(cell.outputs)
    html, _ = exporter.from_notebook_node(notebook, {"menu": menu})
    return str(html)


def front() -> NotebookNode:
    """The first page: the notes for teachers and readers, which begin with the race."""
    text = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])


def main(out: Path = ROOT / "build" / "site") -> None:
    """Write the pages into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    exporter = HTMLExporter(
        template_file="site.html.j2",
        extra_template_paths=[str(ROOT / "tools")],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    notebooks = {"index": front()}
    notebooks |= {path.stem: nbformat.read(path, as_version=4) for path in course()}
    titles = {name: title(notebook) for name, notebook in notebooks.items()} | {"index": "Course"}
    names = list(notebooks)
    for place, (name, notebook) in enumerate(notebooks.items()):
        around = {"index", *names[max(place - 1, 0) : place + 2]} - {name}
        menu = [{"page": f"{n}.html", "title": titles[n]} for n in names if n in around]
        (out / f"{name}.html").write_text(page(exporter, notebook, menu, out), encoding="utf-8")
    print(f"{out / 'index.html'}")


if __name__ == "__main__":
    tyro.cli(main)
