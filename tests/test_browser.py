"""Every notebook in a real JupyterLab: Run All without an error, and a widget that redraws.

Slow (minutes), so only `make test-browser` runs it. Needs Playwright (extra "browser") and a
Chromium on the machine; CHROMIUM names another place than /usr/bin/chromium. On a busy machine
IPD_PATIENCE=10 waits ten times as long; IPD_SCREENSHOTS names a folder for pictures of the pages.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
WITHOUT_WIDGET = {"07_your_own_dataset"}
PATIENCE = float(os.environ.get("IPD_PATIENCE", "1"))
CALL = re.compile(r"\bwidgets\.\w+\(")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(
    os.environ.get("IPD_BROWSER") != "1", reason="minutes in a browser; run `make test-browser`"
)

# In the page: JupyterLab's own model of the open notebook, whatever of it is on the screen.
READY = """name => {
    const panel = window.jupyterapp?.shell.currentWidget;
    return panel?.context?.path?.endsWith(name) && panel.context.isReady
        && panel.sessionContext?.session?.kernel?.status === 'idle';
}"""
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
SOURCES = """() => {
    const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells;
    return cells.map(cell => [cell.cell_type, cell.getSource()]);
}"""
# Counts and errors alone: the outputs hold megabytes of pictures.
PROGRESS = """() => {
    const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells;
    const code = cells.filter(cell => cell.cell_type === 'code');
    return {
        counts: code.map(cell => cell.execution_count),
        errors: code.flatMap(cell => cell.getOutputs().filter(o => o.output_type === 'error'))
            .map(o => o.ename + ': ' + o.evalue),
    };
}"""
SHOW = """async index => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = index;
    await notebook.scrollToItem(index, 'start');
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab over a copy of the course, so that saving touches no file of the repository."""
    root = tmp_path_factory.mktemp("lab")
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for folder in ("notebooks", "figures", "ipd_lite"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--ServerApp.root_dir={root}",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--expose-app-in-browser",
    ]
    environment = {
        **os.environ,
        "IPD_PRESET": "smoke",
        "PYTHONPATH": str(root),
        "JUPYTER_CONFIG_DIR": str(root / "config"),
        "JUPYTER_DATA_DIR": str(root / "data"),
    }
    log = (root / "server.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(int(240 * PATIENCE)):
            assert process.poll() is None, (root / "server.log").read_text()
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5).read()
                break
            except OSError:
                time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    executable = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(executable).exists():
        pytest.skip(f"no Chromium at {executable}; set CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=executable, args=FLAGS, timeout=30_000 * PATIENCE
        )
        yield browser
        browser.close()


def wait(condition: Any, seconds: float, what: str) -> None:
    end = time.monotonic() + PATIENCE * seconds
    while not condition():
        assert time.monotonic() < end, f"timed out: {what}"
        time.sleep(0.5)


def photograph(page: Any, name: str) -> None:
    if folder := os.environ.get("IPD_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_run_all_and_move_a_widget(path: Path, server: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1300, "height": 1200})
    page.set_default_timeout(60_000 * PATIENCE)
    page.goto(f"{server}/lab/tree/notebooks/{path.name}?reset")
    page.wait_for_function(READY, arg=path.name, timeout=120_000 * PATIENCE)
    cells = page.evaluate(SOURCES)
    expected = list(range(1, sum(kind == "code" for kind, _ in cells) + 1))
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate(RUN_ALL)

    def finished() -> bool:
        progress = page.evaluate(PROGRESS)
        assert not progress["errors"], progress["errors"]
        return progress["counts"] == expected and bool(page.evaluate(READY, path.name))

    wait(finished, 400, f"{path.name}: Run All")
    if path.stem in WITHOUT_WIDGET:
        photograph(page, path.stem)
        page.close()
        return
    shows = [i for i, (kind, source) in enumerate(cells) if kind == "code" and CALL.search(source)]
    index = shows[-1]
    page.evaluate(SHOW, index)
    cell = page.locator(".jp-Notebook-cell.jp-mod-active")
    image = cell.locator(".jp-OutputArea-output img").first
    image.wait_for()
    first = image.get_attribute("src")
    assert first and first.startswith("data:image/png"), "the strip of settings is there"
    photograph(page, f"{path.stem}-before")
    if cell.locator(".noUi-handle").count():
        handle = cell.locator(".noUi-handle").first
        handle.focus()
        handle.press("ArrowRight")
        handle.press("ArrowRight")
    else:
        cell.locator(".widget-dropdown select").first.select_option(index=1)
    wait(lambda: image.get_attribute("src") != first, 30, f"{path.name}: the picture changes")
    photograph(page, f"{path.stem}-after")
    page.close()
