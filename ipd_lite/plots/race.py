"""The race: the same balls from the same starts, one panel per policy, a clock and a counter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ipd_lite.plots.frames import encode
from ipd_lite.plots.mazes import maze
from ipd_lite.plots.style import BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, Array

SECONDS = 0.05
"""Of the ball's time in one decision."""


@dataclass(frozen=True)
class Lane:
    """One policy's balls: paths (B, T + 1, 2), and the decision (B,) of arrival, 0 = never."""

    paths: Array
    arrivals: NDArray[np.int64]


@dataclass(frozen=True)
class _Panel:
    """What moves in one panel."""

    lane: Lane
    tails: LineCollection
    running: Line2D
    arrived: Line2D
    counter: Text

    def at(self, decision: int, since: int = 0) -> None:
        """Put the balls where they are after this many decisions, with their tails `since` then."""
        paths, arrivals = self.lane.paths, self.lane.arrivals
        inside = (arrivals > 0) & (arrivals <= decision)
        self.tails.set_segments(list(paths[:, since : decision + 1]))
        self.running.set_data(*paths[~inside, decision].T)
        self.arrived.set_data(*paths[inside, decision].T)
        text = f"arrived {inside.sum()} of {len(paths)}"
        if inside.any():
            text += f", after {arrivals[inside].mean():.1f} on average"
        self.counter.set_text(text)


def _stage(
    walls: NDArray[np.bool_], goal: Array, lanes: Mapping[str, Lane], dpi: float
) -> tuple[Figure, list[_Panel], Text]:
    """The empty panels with their starts, and everything that moves."""
    width = 2.35 * len(lanes)
    figure, axes = plt.subplots(
        1, len(lanes), figsize=(width, 2.85), dpi=dpi, squeeze=False, layout="none"
    )
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.08, top=0.84, wspace=0.05)
    panels = []
    for ax, (title, lane) in zip(axes[0], lanes.items(), strict=True):
        maze(ax, walls, goal, bare=True, cut=0.8)
        ax.set_title(title, fontsize=10, pad=3)
        ax.plot(*lane.paths[:, 0].T, "o", mfc="none", color=ORANGE, ms=6, zorder=4)
        tails = LineCollection([], color=SKY, lw=1.0, alpha=0.7, zorder=4, animated=True)
        ax.add_collection(tails)
        (running,) = ax.plot([], [], "o", color=BLUE, ms=6, zorder=6, animated=True)
        (arrived,) = ax.plot([], [], "s", color=GREEN, ms=6, zorder=7, animated=True)
        counter = ax.text(
            0.5, -0.035, "", transform=ax.transAxes, ha="center", va="top", fontsize=8.5
        )
        panels.append(_Panel(lane, tails, running, arrived, counter))
    clock = figure.text(0.5, 0.985, "", ha="center", va="top", fontsize=9, color=GREY)
    return figure, panels, clock


def _clock(decision: int, limit: int) -> str:
    return f"decision {decision} of {limit}, {SECONDS * decision:.1f} s of the ball's time"


def race_finish(walls: NDArray[np.bool_], goal: Array, lanes: Mapping[str, Lane]) -> Figure:
    """The end of the race as a still: whole paths, who arrived (squares) and who did not."""
    figure, panels, clock = _stage(walls, goal, lanes, dpi=110)
    limit = panels[0].lane.paths.shape[1] - 1
    for panel in panels:
        panel.at(limit)
        for artist in (panel.tails, panel.running, panel.arrived):
            artist.set_animated(False)
    clock.set_text(_clock(limit, limit))
    return figure


def race_animation(
    walls: NDArray[np.bool_],
    goal: Array,
    lanes: Mapping[str, Lane],
    kind: Literal["png", "gif"] = "png",
    every: int = 2,
    dpi: float = 80,
) -> bytes:
    """The race in the ball's own time, repeated for ever, as an animated PNG or GIF.

    The panels are drawn once and the balls on copies of them, so that a frame takes milliseconds.

    Args:
        lanes: panel title -> balls; all have paths of the same length.
        every: decisions between two frames.
    """
    figure, panels, clock = _stage(walls, goal, lanes, dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = canvas.copy_from_bbox(figure.bbox)  # the panels, and the tails so far
    limit = panels[0].lane.paths.shape[1] - 1
    frames = []
    for decision in range(0, limit + 1, every):
        canvas.restore_region(page)
        for panel in panels:
            panel.at(decision, since=max(0, decision - every))
            figure.draw_artist(panel.tails)
        page = canvas.copy_from_bbox(figure.bbox)
        for panel in panels:
            figure.draw_artist(panel.running)
            figure.draw_artist(panel.arrived)
        clock.set_text(_clock(decision, limit))
        frame = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        _write(frame, [clock, *(panel.counter for panel in panels)], dpi)
        frames.append(frame)
    plt.close(figure)
    return encode(frames, kind, milliseconds=round(1000 * SECONDS * every))


def _write(frame: Image.Image, texts: Sequence[Text], dpi: float) -> None:
    """Texts that change, many times as fast as Matplotlib would draw them."""
    brush = ImageDraw.Draw(frame)
    for text in texts:
        x, y = text.get_transform().transform(text.get_position())
        font = _font(float(text.get_fontsize()) * dpi / 72)
        colour = to_hex(text.get_color())
        brush.text((x, frame.height - y), text.get_text(), colour, font, anchor="ma")


@lru_cache
def _font(pixels: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), pixels)


def ladder(rungs: Mapping[str, Array], marks: Mapping[str, float]) -> Figure:
    """Scores from the behaviour up to the optimum: whole on the left, its top magnified.

    Args:
        rungs: display name -> scores (seeds,), from the bottom upwards; dots, and a bar for their
            mean. marks: numbers without seeds, as lines through everything.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 2.6), sharey=True, width_ratios=(1, 1.3))
    top = min(marks.values())
    for ax in axes:
        for height, scores in enumerate(rungs.values()):
            ax.plot(scores, np.full(len(scores), height), "o", color=BLUE, ms=4, alpha=0.6)
            ax.plot(scores.mean(), height, "|", color=BLUE, ms=16, mew=2.5)
        for (name, place), line in zip(marks.items(), ("--", "-", ":"), strict=False):
            ax.axvline(place, color=VERMILION, ls=line, lw=1.4, label=f"{name} {place:.0f}")
        ax.set_xlabel("normalized score")
    axes[0].set_yticks(range(len(rungs)), list(rungs))
    axes[0].set(xlim=(0, None), ylim=(-0.6, len(rungs) - 0.2), title="from the bottom")
    axes[1].set(xlim=(top - 4, max(marks.values()) + 1), title="the last steps, magnified")
    for height, scores in enumerate(rungs.values()):
        mean = scores.mean()
        place, text = (mean, f"{mean:.1f}") if mean > top - 3 else (top - 2.1, "far to the left")
        axes[1].annotate(
            text,
            (place, height),
            color=GREY,
            fontsize=8,
            ha="center",
            va="center",
            textcoords="offset points",
            xytext=(0, 12) if mean == place else (0, 0),
        )
    figure.legend(
        *axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=len(marks)
    )
    return figure
