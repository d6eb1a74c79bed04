"""Figures 1 and 6, drawn from the arrays of one maze run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray

from ipd_lite.plots.mazes import doubt_against_error, field, maze, per_square, trajectories
from ipd_lite.plots.style import (
    BLUE,
    GREY,
    LINES,
    ORANGE,
    PAGE,
    PALETTE,
    SEQUENTIAL,
    SKY,
    VERMILION,
    Array,
)


def method_diagram(
    walls: NDArray[np.bool_],
    goal: Array,
    paths: Sequence[Array],
    returns: Array,
    positions: Array,
    learned: Array,
    observations: Array,
    uncertainty: Array,
    recorded: Sequence[Array],
    imagined: Sequence[Array],
) -> Figure:
    """Figure 1: the method as a flow, every map drawn from one real run."""
    figure, axes = plt.subplots(2, 3, figsize=(PAGE, 5.5))
    panels = list(axes.ravel())
    titles = (
        "1  offline data", "2  V by implicit Q-learning (3.1)", "3  U of the ensemble (3.2)",
        "4  where the data falls short (3.3)", "5  planned instead, while U is small",
        "6  a transformer learns from both (3.4)",
    )  # fmt: skip
    for ax in panels[:5]:
        maze(ax, walls, goal, bare=True)
    bar: dict[str, Any] = {"location": "bottom", "aspect": 25, "pad": 0.02}
    trajectories(panels[0], paths, returns, "return", **bar).set(lw=0.5, rasterized=True)
    field(panels[1], positions, learned, "V (discounted return)", "", cmap=SEQUENTIAL, bar=bar)
    per_square(panels[2], observations, uncertainty, walls, "U (nats, dark = unsure)", **bar)
    for ax, group, colour, line, note in (
        (panels[3], recorded, GREY, "--", "recorded, below V(s)"),
        (panels[4], imagined, BLUE, "-", "imagined from the same states"),
    ):  # fmt: skip
        for path in group:
            ax.plot(*path.T, line, color=colour, lw=0.9, zorder=4)
            ax.plot(*path[0], "o", color=ORANGE, ms=2.5, zorder=5)
        ax.text(0.5, -0.04, note, transform=ax.transAxes, ha="center", va="top", fontsize=7.5)
    _transformer(panels[5])
    for ax, title in zip(panels, titles, strict=True):
        ax.set_title(title, fontsize=8)
    for ax in figure.axes:  # the colour bars, too
        ax.tick_params(labelsize=7)
        ax.xaxis.label.set_fontsize(7.5)
    for first, second in (pair for row in axes for pair in pairwise(row)):
        arrow = ConnectionPatch(
            (1.01, 0.5), (-0.01, 0.5), "axes fraction", "axes fraction", axesA=first,
            axesB=second, arrowstyle="-|>", color="black", lw=1.1, mutation_scale=9,
        )  # fmt: skip
        figure.add_artist(arrow)
    return figure


def _transformer(ax: Axes) -> None:
    """Tokens of V(s), state and last action, a causal transformer, an action per step."""
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    box = {"boxstyle": "round,pad=0.35", "fc": "#EAF3FA", "ec": BLUE}
    ax.text(0.5, 0.5, "      causal transformer      ", ha="center", va="center", bbox=box)
    for step, x in enumerate((0.16, 0.5, 0.84)):
        name = f"t{step - 2 or ''}"
        ax.text(x, 0.13, f"V(s), s, a\n{name}", ha="center", va="center", fontsize=7, bbox=box)
        ax.text(x, 0.84, f"action\n{name}", ha="center", va="center", fontsize=7)
        for low, high in ((0.24, 0.4), (0.6, 0.76)):
            ax.annotate("", (x, high), (x, low), arrowprops={"arrowstyle": "->", "color": GREY})
    ax.text(0.5, -0.04, "loss: |pi - a|^2 - alpha Q(s, pi)", ha="center", va="top", fontsize=7.5)


def uncertainty_panels(
    uncertainty: Array,
    error: Array,
    on_data: NDArray[np.bool_],
    path_uncertainty: Array,
    path_error: Array,
    threshold: float,
) -> Figure:
    """Figure 6: does U know where the model is wrong, after one step and after five, and what does
    the gate reject?

    Args:
        uncertainty, error, on_data: (B,) of single steps; errors in deviations of the data.
        path_uncertainty, path_error: (P,) largest U along five recorded steps and the error at
            their end, played open-loop in the model.
    """
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.9))
    groups = {"held-out data": on_data, "off the data": ~on_data}
    doubt_against_error(axes[0], uncertainty, error, threshold, groups)
    paths = {"held-out data": np.ones(len(path_error), dtype=bool)}
    doubt_against_error(axes[1], path_uncertainty, path_error, threshold, paths)
    pairs = ((uncertainty, error), (path_uncertainty, path_error))
    for ax, name, (doubt, wrong) in zip(axes, ("one step", "five steps"), pairs, strict=False):
        correlation = pd.Series(doubt).rank().corr(pd.Series(wrong).rank())
        ax.set_title(f"{name}: rank correlation {correlation:.2f}", fontsize=8)
    edges = np.geomspace(max(error.min(), 1e-4), error.max() * 1.001, 22)
    passed = uncertainty <= threshold
    axes[2].hist(
        [error[passed], error[~passed]], edges, stacked=True, color=(SKY, VERMILION),
        hatch=("", "//"), edgecolor="white", linewidth=0.3,
        label=(f"passes ({passed.mean():.0%})", f"rejected ({(~passed).mean():.0%})"),
    )  # fmt: skip
    axes[2].set(xscale="log", xlabel="true error (data deviations)", ylabel="steps")
    axes[2].set_title("what the gate rejects (one step)", fontsize=8)
    axes[2].legend(fontsize=7)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7)
    return figure


def calibration(standardized: Array) -> Figure:
    """Observed against promised share of held-out outcomes in the members' intervals.

    Args:
        standardized: (N, D) held-out (truth - mean) / predicted deviation.
    """
    figure, ax = plt.subplots(figsize=(3.6, 3.4))
    promised = np.linspace(0.02, 0.98, 49)
    bound = np.array([NormalDist().inv_cdf(0.5 + share / 2) for share in promised])
    names = ("x", "y", "velocity x", "velocity y")
    for entry, colour, line in zip(standardized.T, PALETTE, LINES, strict=False):
        inside = (np.abs(entry[:, None]) <= bound).mean(0)
        ax.plot(promised, inside, ls=line, color=colour, label=names[len(ax.lines)])
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    ax.annotate("too wide", (0.1, 0.85), color=GREY)
    ax.annotate("too narrow", (0.6, 0.1), color=GREY)
    ax.set(xlabel="promised share inside the interval", ylabel="observed share", aspect="equal",
           title="calibration of the members' variance")  # fmt: skip
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.15))
    return figure
