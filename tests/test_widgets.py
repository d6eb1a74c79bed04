"""Widgets show a strip of settings without a front end, and redraw what was computed before."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ipd_lite import plots
from ipd_lite.course import widgets
from ipd_lite.paper.acting import FunctionActor
from ipd_lite.tasks.mazes import geometry

MAZE = geometry("umaze")
PATHS = [np.cumsum(np.full((n, 2), 0.1), axis=0) for n in (2, 5, 3)]
RANDOM = np.random.default_rng(0)
PNG = b"\x89PNG\r\n"


class Front:
    """Stands for the front end: keeps what is shown and what replaces it."""

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.updates: list[bytes] = []

    def display(self, thing: Any, display_id: bool = False) -> Any:
        self.shown.append(thing)
        return self

    def update(self, image: Any) -> None:
        assert len(image.alt) > 20
        self.updates.append(image.data)


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Front:
    front = Front()
    monkeypatch.setattr(widgets, "display", front.display)
    return front


def fan(horizon: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return RANDOM.normal(size=(12, horizon + 1, 2)), RANDOM.normal(size=12), RANDOM.random(12)


WIDGETS: dict[str, Callable[[], None]] = {
    "episodes": lambda: widgets.browse_episodes(
        MAZE.walls, MAZE.goal, PATHS, np.array([-1.0, -4, -2]), np.array([True, False, False])
    ),
    "expectile": lambda: widgets.expectile_slider(RANDOM.normal(size=200)),
    "gaussians": widgets.gaussian_sliders,
    "gap": lambda: widgets.gap_slider(
        {w: lambda w=w: plots.histogram({"a": RANDOM.normal(w, 1, 9)}, "", "") for w in (0.0, 1.0)}
    ),
    "plans": lambda: widgets.plan_sliders(
        MAZE.walls, MAZE.goal, {1: fan(1), 5: fan(5)}, {0.5: 0.5, 1.0: 9.0}, top=3
    ),
    "alpha": lambda: widgets.alpha_slider(
        MAZE.walls, MAZE.goal, {0.0: PATHS, 0.3: PATHS[:1]}, {0.0: [1.0, 2.0], 0.3: [3.0, 5.0]}
    ),
    "race": lambda: widgets.race_from(
        {"iql": FunctionActor(lambda observations: torch.ones(len(observations), 2))},
        np.array([[-2.5, 2.5], [2.5, -2.0]]),
    ),
    "choice": lambda: widgets.choose(
        {n: lambda n=n: plots.histogram({n: RANDOM.normal(size=9)}, "", n) for n in "ab"},
        "which",
        "Two histograms.",
    ),
}


def move(control: Any) -> None:
    """Set a control to another of its values."""
    if hasattr(control, "options"):
        control.index = (control.index + 1) % len(control.options)
    else:
        control.value = control.min if control.value != control.min else control.max


def size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


@pytest.mark.parametrize("name", WIDGETS)
def test_a_strip_first_then_every_control_changes_the_picture(name: str, front: Front) -> None:
    WIDGETS[name]()
    box, image = front.shown
    assert image.data.startswith(PNG), "a strip of settings is shown without any front end"
    settings = image.alt.split("Settings: ")[1].rstrip(".").split("; ")
    assert 2 <= len(settings) <= 4
    default = ", ".join(f"{control.description} = {control.value}" for control in box.children)
    assert default in settings, "the controls stand at a setting that the strip shows"
    assert not front.updates
    latest = image.data
    for control in box.children:
        assert control.description
        move(control)
        assert front.updates[-1].startswith(PNG)
        assert front.updates[-1] != latest, f"{control.description} changes nothing"
        latest = front.updates[-1]
    assert np.prod(size(image.data)) > 1.9 * np.prod(size(latest))
    assert not plt.get_fignums(), "no figure is left for the notebook to draw twice"


def test_a_strip_leaves_no_room_below_low_pictures() -> None:
    def png(width: int, height: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (width, height)).save(buffer, "PNG")
        return buffer.getvalue()

    caption = size(plots.strip({"one": png(700, 100)}))[1] - 100
    low_and_high = {"a": png(700, 300), "b": png(500, 40)}
    assert size(plots.strip(low_and_high)) == (700, 340 + 2 * caption), "wide ones stand alone"
    narrow = {"a": png(500, 300), "b": png(500, 40), "c": png(500, 50)}
    assert size(plots.strip(narrow)) == (1000, 350 + 2 * caption), "narrow ones two in a row"


def test_the_same_setting_gives_the_same_picture(front: Front) -> None:
    WIDGETS["plans"]()
    box, _ = front.shown
    control = box.children[1]
    before = control.value
    control.value = control.min
    control.value = before
    first = front.updates[-1]
    control.value = control.min
    control.value = before
    assert front.updates[-1] == first
