"""Robots side by side as stick figures: the same start, one lane per policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from ipd_lite.plots.frames import encode, frame_of
from ipd_lite.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, VERMILION, Array


@dataclass(frozen=True)
class Runner:
    """One episode of a robot in its plane (metres): the two ends of every limb (T, L, 2, 2) and how
    far it has come (T,). fell: whether the episode terminated."""

    limbs: Array
    distance: Array
    fell: bool

    def at(self, step: int) -> tuple[Array, float, bool]:
        """Limbs, distance, and whether it lies on the floor after `step` steps."""
        last = len(self.limbs) - 1
        return (
            self.limbs[min(step, last)],
            float(self.distance[min(step, last)]),
            self.fell and step >= last,
        )


@dataclass(frozen=True)
class _Lane:
    runner: Runner
    limbs: LineCollection
    text: Text

    def show(self, step: int) -> None:
        limbs, distance, down = self.runner.at(step)
        self.limbs.set_segments(list(limbs))
        fallen = f", fell after {len(self.runner.limbs) - 1} steps" if down else ""
        self.text.set_text(f"{distance:.1f} m{fallen}")
        self.text.set_color(VERMILION if down else GREY)


def _lanes(runners: Mapping[str, Runner], dpi: float) -> tuple[Figure, list[_Lane]]:
    """The empty lanes, from -1 m to beyond the furthest."""
    end = max(float(r.limbs[..., 0].max()) for r in runners.values()) + 0.5
    top = max(float(r.limbs[..., 1].max()) for r in runners.values()) + 0.4
    width = 8.0
    height = width * (top + 0.2) / (end + 1.0) + 0.15
    figure, axes = plt.subplots(
        len(runners),
        1,
        figsize=(width, max(0.9, height) * len(runners)),
        dpi=dpi,
        squeeze=False,
        layout="none",
    )
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.99, hspace=0.04)
    found = []
    colours = (ORANGE, BLUE, GREEN, PINK)
    for ax, (name, runner), colour in zip(axes[:, 0], runners.items(), colours, strict=False):
        ax.set(xlim=(-1, end), ylim=(-0.2, top), xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set_visible(False)
        ax.axhline(0, color=GREY, lw=1)
        for metre in range(int(end) + 1):
            ax.plot([metre, metre], [-0.08, 0], color=GREY, lw=1)
        limbs = LineCollection([], color=colour, lw=3.5, capstyle="round")
        ax.add_collection(limbs)
        ax.text(0.01, 0.97, name, transform=ax.transAxes, va="top", fontsize=10, color=colour)
        text = ax.text(0.99, 0.97, "", transform=ax.transAxes, va="top", ha="right", fontsize=9)
        found.append(_Lane(runner, limbs, text))
    return figure, found


def runners_animation(
    runners: Mapping[str, Runner],
    seconds: float,
    kind: Literal["png", "gif"] = "png",
    every: int = 8,
    dpi: float = 70,
) -> bytes:
    """All of them in their own time, repeated for ever, as an animated PNG or GIF.

    Args:
        runners: name -> episode, at most four. seconds: of the robot's time in one step.
        every: steps between two frames.

    Raises:
        ValueError: more than four of them, or none.
    """
    if not 1 <= len(runners) <= 4:
        raise ValueError(f"{len(runners)} robots; expected one to four, one lane each")
    figure, lanes = _lanes(runners, dpi)
    steps = max(len(runner.limbs) for runner in runners.values()) - 1
    frames = []
    for step in [*range(0, steps, every), steps]:
        for lane in lanes:
            lane.show(step)
        frames.append(frame_of(figure))
    plt.close(figure)
    return encode(frames, kind, milliseconds=round(1000 * seconds * every))
