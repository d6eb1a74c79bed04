"""Colours and style of every figure, and pictures with alternative texts."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Look = dict[str, Any]
Line = str | tuple[int, tuple[int, ...]]

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, GREY = "#56B4E9", "#D55E00", "#6E6E6E"
"""Okabe and Ito's colours, which colour-blind readers tell apart."""

PALETTE = (BLUE, ORANGE, GREEN, PINK, VERMILION, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Line, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
LOOKS = tuple(zip(PALETTE, MARKERS, LINES, strict=True))
"""Series differ in colour, marker and line, so that a figure can be read in grey."""

SEQUENTIAL, DIVERGING, DOUBT = "viridis", "coolwarm", "magma_r"
"""Colour maps: of returns and values, of differences, and of U and errors (dark = large)."""

COLUMN, PAGE = 3.5, 7.2
"""Inches: one column and both columns of a printed page."""

_CAPTION, _WIDEST = 26, 1200
"""Pixels: a line of text above a picture of a strip, and the width of a page on a screen."""

METHOD_NAMES = {
    "behaviour": "Behaviour policy",
    "bc": "Behaviour cloning",
    "bc-10": "Cloning, best 10 %",
    "td3bc": "TD3+BC",
    "cql": "CQL",
    "dt": "Decision Transformer",
    "qt": "QT",
    "iql": "IQL",
    "mpc": "Planner alone (MPC)",
    "ipd-noaug": "IPD, no imagined data",
    "ipd-greedy": "IPD, greedy Q",
    "ipd-random": "IPD, random actions",
    "ipd-nogate": "IPD, no gate",
    "ipd-noq": "IPD, no Q term",
    "ipd-rtg": "IPD, hand-set target",
    "ipd": "IPD",
    "rebrac": "ReBRAC",
    "ipd-nosupport": "IPD, no support gate",
    "ipd-ask-v": "IPD, asks for V(s)",
}
TASK_WORDS = {"pointmaze": "Maze", "halfcheetah": "HalfCheetah", "antmaze": "AntMaze"}


def method_name(method: str) -> str:
    """How figures call a method, "method@variant" too; unknown ones by their own name."""
    method, _, variant = method.partition("@")
    name = METHOD_NAMES.get(method, method)
    if method.startswith("ipd-x"):
        name = f"IPD, {method.removeprefix('ipd-x')} x the imagined data"
    return f"{name} ({variant})" if variant else name


def task_name(task: str) -> str:
    """How figures call a task: "Maze medium-slow", "Hopper medium-replay"."""
    if task == "pointmaze-umaze":
        return "U-maze"
    first, _, rest = task.partition("-")
    return f"{TASK_WORDS.get(first, first.capitalize())} {rest}".strip()


def style() -> None:
    """Matplotlib settings of all our figures (small, light, readable at column width)."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
            "svg.hashsalt": "ipd-lite",
        }
    )


@dataclass(frozen=True)
class Picture:
    """A PNG and the words for readers who cannot see it.

    The words lie where nbconvert and nbviewer look for them (the metadata of the image), and they
    stand for the picture wherever there is only text.
    """

    data: bytes
    alt: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[Any, Any]:
        image = base64.b64encode(self.data).decode()
        return {"image/png": image, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


def show(drawn: Figure | bytes, alt: str) -> None:
    """Display a figure (and close it), or a PNG, in a notebook; `alt` says what is to be seen."""
    from IPython.display import display

    if isinstance(drawn, Figure):
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=drawn.dpi)
        plt.close(drawn)
        drawn = buffer.getvalue()
    display(Picture(drawn, alt))


def strip(pictures: Mapping[str, bytes]) -> bytes:
    """Several PNGs as one, each under its name; narrow ones stand two in a row."""
    images = {name: Image.open(io.BytesIO(data)).convert("RGB") for name, data in pictures.items()}
    width = max(image.width for image in images.values())
    columns = 2 if 2 * width <= _WIDEST else 1
    named, placed, bottom = list(images.items()), [], 0
    for first in range(0, len(named), columns):
        row = named[first : first + columns]
        placed += [(column * width, bottom, *one) for column, one in enumerate(row)]
        bottom += max(image.height for _, image in row) + _CAPTION
    sheet = Image.new("RGB", (columns * width, bottom), "white")
    brush = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(findfont("DejaVu Sans"), 14)
    for x, y, name, image in placed:
        brush.text((x + 8, y + 6), name, GREY, font)
        sheet.paste(image, (x, y + _CAPTION))
    buffer = io.BytesIO()
    sheet.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
