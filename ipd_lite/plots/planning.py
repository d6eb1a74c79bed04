"""One planning step after the other: a fan of candidates, the best few, one step, again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from ipd_lite.plots.frames import encode, frame_of
from ipd_lite.plots.mazes import maze
from ipd_lite.plots.style import BLUE, GREY, ORANGE, SKY, VERMILION, Array


@dataclass(frozen=True)
class PlannedStep:
    """One decision of Algorithm 1: where the ball is, `here` (2,); the candidates' imagined paths
    (N, H + 1, 2) and which of them are `best` (K,); where the one step that is taken leads,
    `there` (2,); its U, and whether it passes the gate."""

    here: Array
    candidates: Array
    best: NDArray[np.int64]
    there: Array
    doubt: float
    passes: bool


def planning_animation(
    walls: NDArray[np.bool_],
    goal: Array,
    steps: Sequence[PlannedStep],
    threshold: float,
    kind: Literal["png", "gif"] = "png",
    dpi: float = 65,
) -> bytes:
    """Three frames a decision, repeated for ever, as an animated PNG or GIF.

    Raises:
        ValueError: no steps.
    """
    if not steps:
        raise ValueError("no planned steps, nothing to draw; expected at least one")
    seen = np.concatenate([step.candidates.reshape(-1, 2) for step in steps])
    (left, bottom), (right, top) = seen.min(0) - 0.4, seen.max(0) + 0.4
    figure, ax = plt.subplots(
        figsize=(6, 6 * (top - bottom) / (right - left) + 0.3), dpi=dpi, layout="none"
    )
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.93)
    maze(ax, walls, goal, bare=True)
    ax.set(xlim=(left, right), ylim=(bottom, top))
    fan = LineCollection([], color=SKY, lw=0.8, alpha=0.7, zorder=4)
    chosen = LineCollection([], color=BLUE, lw=2.2, zorder=5)
    ax.add_collection(fan)
    ax.add_collection(chosen)
    (path,) = ax.plot([], [], ".-", color=ORANGE, lw=2, ms=6, zorder=6)
    (ball,) = ax.plot([], [], "o", color=ORANGE, ms=9, zorder=7)
    cross = ax.plot([], [], "X", color=VERMILION, mec="white", ms=13, zorder=8)[0]
    title = ax.set_title("", color=GREY, fontsize=9, loc="left")
    frames, walked = [], [steps[0].here]
    for number, step in enumerate(steps, 1):
        best = list(step.candidates[step.best])
        fan.set_segments(list(step.candidates))
        chosen.set_segments([])
        ball.set_data(*step.here[:, None])
        title.set_text(f"decision {number}: {len(step.candidates)} candidates")
        frames.append(frame_of(figure))
        chosen.set_segments(best)
        title.set_text(f"decision {number}: the best {len(best)}, by rewards and V at the end")
        frames.append(frame_of(figure))
        fan.set_segments([])
        chosen.set_segments([])
        sign = "at most" if step.passes else "above"
        title.set_text(
            f"decision {number}: one step, U = {step.doubt:.2f}, {sign} the threshold "
            f"{threshold:.2f}" + ("" if step.passes else ": stop")
        )
        if step.passes:
            walked.append(step.there)
            ball.set_data(*step.there[:, None])
        else:
            cross.set_data(*step.there[:, None])
        path.set_data(*np.stack(walked).T)
        frames.append(frame_of(figure))
    plt.close(figure)
    return encode(frames, kind, milliseconds=600)
