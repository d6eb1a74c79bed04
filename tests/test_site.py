"""The course's web pages, read as a browser without a screen reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tools import site

NAMES = ["index", *(path.stem for path in site.course())]
every_page = pytest.mark.parametrize("name", NAMES)


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def every(self, tag: str, attribute: str) -> Iterator[str]:
        for found, attributes in self.elements:
            if found == tag and attribute in attributes:
                yield attributes[attribute] or ""

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.elements)


def outputs(name: str) -> list[dict[str, Any]]:
    """Everything that a notebook's cells put out; nothing for the first page."""
    if name == "index":
        return []
    cells = json.loads((site.NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    site.main(out)
    return out


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Page]:
    return {path.stem: Page(path) for path in folder.glob("*.html")}


def test_every_notebook_has_a_page(pages: dict[str, Page]) -> None:
    assert sorted(pages) == sorted(NAMES)
    assert len(NAMES) == 9


@every_page
def test_every_picture_has_words(name: str, pages: dict[str, Page]) -> None:
    images = [attributes for tag, attributes in pages[name].elements if tag == "img"]
    assert images
    for image in images:
        alt = image.get("alt") or ""
        badge = "badge" in (image["src"] or "")
        assert len(alt) > (3 if badge else 50), image["src"]
        assert "No description" not in alt


@every_page
def test_words_are_those_of_the_notebook(name: str, pages: dict[str, Page]) -> None:
    saved = [
        output["metadata"]["image/png"]["alt"]
        for output in outputs(name)
        if "image/png" in output.get("data", {})
    ]
    shown = [alt for alt in pages[name].every("img", "alt") if alt not in ("Binder", "Colab")]
    assert shown[name == "index" :] == saved


@every_page
def test_no_widget_is_left_as_text(name: str, pages: dict[str, Page]) -> None:
    for word in ("VBox(", "Output(", "FigureCanvas", "widget-view+json", "it/s]", "update/s"):
        assert word not in pages[name].text
    widgets = sum(site.WIDGET in output.get("data", {}) for output in outputs(name))
    assert pages[name].text.count("this picture has controls") == widgets


@every_page
def test_links_inside_lead_somewhere(name: str, folder: Path, pages: dict[str, Page]) -> None:
    targets = [*pages[name].every("a", "href"), *pages[name].every("img", "src")]
    inside = [t for t in targets if not t.startswith(("https:", "http:", "data:", "mailto:"))]
    assert len(inside) >= 2
    for target in inside:
        path, _, anchor = target.partition("#")
        assert not path.endswith(".ipynb")
        assert not path or (folder / path).exists(), target
        if anchor:
            there = pages[Path(path).stem if path else name]
            assert anchor in {attributes.get("id") for _, attributes in there.elements}, target


@every_page
def test_links_to_the_repository_exist(name: str, pages: dict[str, Page]) -> None:
    for target in pages[name].every("a", "href"):
        if target.startswith(site.REPOSITORY):
            assert (site.ROOT / target.removeprefix(site.REPOSITORY + "/").split("#")[0]).exists()


@every_page
def test_solutions_stay_folded(name: str, pages: dict[str, Page]) -> None:
    page = pages[name]
    assert page.count("details") == page.count("summary")
    assert not any("open" in attributes for tag, attributes in page.elements if tag == "details")
    if name != "index":
        source = (site.NOTEBOOKS / f"{name}.ipynb").read_text()
        assert page.count("details") == source.count("<details>") >= 5


@every_page
def test_pages_are_light(name: str, folder: Path) -> None:
    assert (folder / f"{name}.html").stat().st_size < 4_000_000


def test_the_first_page_begins_with_the_race(folder: Path, pages: dict[str, Page]) -> None:
    source = next(pages["index"].every("img", "src"))
    with Image.open(folder / source) as race:
        assert race.format == "GIF" and race.n_frames > 10
    linked = set(pages["index"].every("a", "href"))
    assert {f"{name}.html" for name in NAMES[1:]} <= linked


@every_page
def test_pages_have_a_title_and_a_language(name: str, pages: dict[str, Page]) -> None:
    assert "en" in pages[name].every("html", "lang")
    assert pages[name].count("title") == pages[name].count("h1") == 1
