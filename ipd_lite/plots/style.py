"""Colours and style of every figure, and pictures with alternative texts."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.float64]


BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#6E6E6E",
)  # fmt: skip


SEQUENTIAL, DIVERGING = "viridis", "coolwarm"


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
