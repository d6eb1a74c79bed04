"""Imagined stitching in one panel: recorded, imagined, replayed, and what leads on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ipd_lite.plots.mazes import around, maze
from ipd_lite.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, SEQUENTIAL, VERMILION, Array


@dataclass(frozen=True)
class Stitch:
    """One imagined continuation: positions (T, 2) of the recording up to its start (`prefix`) and
    after it (`rest`), of the imagined path and of its actions in the simulator (`replayed`).

    doubt: (T - 1,) U of every imagined step. stop: steps that pass the gate. gain: imagined, over
    the recording. end: (O,) the imagined state at which the gate stops.
    """

    prefix: Array
    rest: Array
    imagined: Array
    doubt: Array
    stop: int
    replayed: Array
    gain: float
    end: Array


def stitch(
    ax: Axes,
    walls: NDArray[np.bool_],
    goal: Array,
    one: Stitch,
    onward: Sequence[Array] = (),
    background: tuple[Array, Array] | None = None,
) -> None:
    """One start, everything overlaid.

    Args:
        onward: recordings (T, 2) that lead from the end of the imagined piece to the goal.
        background: positions (P, 2) and their V (P,), drawn pale behind all else.
    """
    maze(ax, walls, goal, bare=True, cut=0.8)
    if background is not None:
        places, v = background
        x, y = places.T
        pale = 0.65 + 0.35 * plt.get_cmap(SEQUENTIAL)(Normalize()(v))  # opaque: no seams
        ax.scatter(x, y, c=list(pale), s=50, marker="s", lw=0, zorder=1)
    ax.plot(*one.prefix.T, "-", color=ORANGE, lw=1.6, zorder=4)
    ax.plot(*one.rest.T, ":", color=GREY, lw=1.8, zorder=4)
    steps = np.stack([one.imagined[:-1], one.imagined[1:]], axis=1)
    width = 1.0 + 5.0 * np.clip(one.doubt / max(float(np.max(one.doubt, initial=0.0)), 1e-9), 0, 1)
    ax.add_collection(
        LineCollection(
            list(steps), color=BLUE, linewidths=width, alpha=0.75, zorder=5, capstyle="round"
        )
    )
    ax.plot(*one.replayed.T, "--", color=GREEN, lw=1.6, zorder=6)
    for piece, line in zip(onward, ("-", "-.") * len(onward), strict=False):
        ax.plot(*piece.T, line, color=PINK, lw=1.4, zorder=4)
        ax.plot(*piece[0], ".", color=PINK, ms=6, zorder=6)
    ax.plot(*one.imagined[0], "o", color=ORANGE, ms=7, zorder=7)
    if one.stop < len(one.doubt):
        ax.plot(*one.imagined[one.stop], "X", color=VERMILION, mec="white", ms=10, zorder=8)


def _legend(figure: Figure, onward: bool) -> None:
    styles = [
        ("recorded before", ORANGE, "-", ""),
        ("recorded after", GREY, ":", ""),
        ("imagined (thick: U is high)", BLUE, "-", ""),
        ("replayed in the simulator", GREEN, "--", ""),
        ("the gate stops here", VERMILION, "", "X"),
    ]
    if onward:
        styles.insert(4, ("other recordings lead on", PINK, "-", "."))
    lines = [
        Line2D([], [], color=colour, ls=line, marker=mark, lw=2, label=name)
        for name, colour, line, mark in styles
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3)


def stitch_to_goal(
    walls: NDArray[np.bool_],
    goal: Array,
    one: Stitch,
    onward: Sequence[Array],
    background: tuple[Array, Array],
) -> Figure:
    """One start in one panel, up to the gate, then chained to the goal; V behind."""
    figure, ax = plt.subplots(figsize=(5.6, 5.6))
    kept = slice(one.stop + 1)
    passed = replace(
        one, imagined=one.imagined[kept], doubt=one.doubt[: one.stop], replayed=one.replayed[kept]
    )
    stitch(ax, walls, goal, passed, onward, background)
    ax.plot(*one.imagined[one.stop], "X", color=VERMILION, mec="white", ms=10, zorder=8)
    _legend(figure, onward=True)
    return figure


def stitch_gallery(walls: NDArray[np.bool_], goal: Array, chosen: Sequence[Stitch]) -> Figure:
    """Two rows of close views, titled by what was promised and what the simulator made of it."""
    columns = (len(chosen) + 1) // 2
    figure, axes = plt.subplots(2, columns, figsize=(2.9 * columns, 6.4), squeeze=False)
    for ax in axes.flat[len(chosen) :]:
        ax.set_axis_off()
    for ax, one in zip(axes.flat, chosen, strict=False):
        stitch(ax, walls, goal, one)
        around(ax, np.concatenate([one.imagined, one.replayed]), margin=0.8)
        apart = float(np.linalg.norm(one.imagined[-1] - one.replayed[-1]))
        ax.set_title(
            f"gate: {one.stop} of {len(one.doubt)} steps\n"
            f"ends {100 * apart:.0f} cm beside the truth",
            fontsize=9,
        )
    _legend(figure, onward=False)
    return figure
