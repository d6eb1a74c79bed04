"""Figures 1 and 6 and the calibration, drawn from the arrays of one maze run."""

from __future__ import annotations

from itertools import pairwise
from statistics import NormalDist

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from ipd_lite.plots.mazes import (
    BELOW,
    Paths,
    doubt_against_error,
    draw_paths,
    draw_starts,
    field,
    maze,
    per_square,
    trajectories,
)
from ipd_lite.plots.style import BLUE, GREY, LOOKS, PAGE, SKY, VERMILION, Array, Flags, Look


def method_diagram(
    walls: Flags,
    goal: Array,
    paths: Paths,
    returns: Array,
    positions: Array,
    learned: Array,
    states: Array,
    uncertainty: Array,
    recorded: Paths,
    imagined: Paths,
) -> Figure:
    """Figure 1: the method as a flow, every map drawn from one real run."""
    figure, axes = plt.subplots(2, 3, figsize=(PAGE, 5.5))
    panels = list(axes.ravel())
    for ax in panels[:5]:
        maze(ax, walls, goal, bare=True)
    trajectories(panels[0], paths, returns, "return", **BELOW)
    field(panels[1], positions, learned, "V (discounted return)", Normalize(), **BELOW)
    per_square(panels[2], states, uncertainty, walls, "U (nats, dark = unsure)", **BELOW)
    draw_paths(panels[3], recorded, GREY, "--")
    draw_paths(panels[4], imagined, BLUE)
    for ax, group in zip(panels[3:5], (recorded, imagined), strict=True):
        draw_starts(ax, group)
    _transformer(panels[5])
    titles = ["offline data", "V by implicit Q-learning (3.1)", "U of the ensemble (3.2)"]
    titles += ["where the data falls short (3.3)", "planned instead, while U is small"]
    for number, title in enumerate([*titles, "a transformer learns from both (3.4)"]):
        panels[number].set_title(f"{number + 1}  {title}", fontsize=8)
    notes = (
        "recorded, below V(s)",
        "imagined from the same states",
        "loss: |pi - a|^2 - alpha Q(s, pi)",
    )
    below: Look = {"ha": "center", "va": "top", "fontsize": 7.5}
    for ax, note in zip(panels[3:], notes, strict=True):
        ax.text(0.5, -0.04, note, transform=ax.transAxes, **below)
    for ax in figure.axes:  # the colour bars, too
        ax.tick_params(labelsize=7)
        ax.xaxis.label.set_fontsize(7.5)
    arrow: Look = {"arrowstyle": "-|>", "color": "black", "lw": 1.1, "mutation_scale": 9}
    arrow |= {"coordsA": "axes fraction", "coordsB": "axes fraction"}
    for first, second in (pair for row in axes for pair in pairwise(row)):
        ends: Look = {"axesA": first, "axesB": second}
        figure.add_artist(ConnectionPatch((1.01, 0.5), (-0.01, 0.5), **ends, **arrow))
    return figure


def _transformer(ax: Axes) -> None:
    """Tokens of V(s), state and last action, a causal transformer, an action per step."""
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    box = {"boxstyle": "round,pad=0.35", "fc": "#EAF3FA", "ec": BLUE}
    middle: Look = {"ha": "center", "va": "center"}
    ax.text(0.5, 0.5, f"{'causal transformer':^30}", bbox=box, **middle)
    arrow = {"arrowstyle": "->", "color": GREY}
    for x, name in ((0.16, "t-2"), (0.5, "t-1"), (0.84, "t")):
        ax.text(x, 0.13, f"V(s), s, a\n{name}", fontsize=7, bbox=box, **middle)
        ax.text(x, 0.84, f"action\n{name}", fontsize=7, **middle)
        for low, high in ((0.24, 0.4), (0.6, 0.76)):
            ax.annotate("", (x, high), (x, low), arrowprops=arrow)


def uncertainty_panels(
    uncertainty: Array,
    error: Array,
    on_data: Flags,
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
    single = {"held-out data": on_data, "off the data": ~on_data}
    paths = {"held-out data": np.ones(len(path_error), dtype=bool)}
    for ax, name, doubt, wrong, groups in (
        (axes[0], "one step", uncertainty, error, single),
        (axes[1], "five steps", path_uncertainty, path_error, paths),
    ):
        doubt_against_error(ax, doubt, wrong, threshold, groups)
        correlation = pd.Series(doubt).rank().corr(pd.Series(wrong).rank())
        ax.set_title(f"{name}: rank correlation {correlation:.2f}", fontsize=8)
    edges = np.geomspace(max(error.min(), 1e-4), error.max() * 1.001, 22)
    passed = uncertainty <= threshold
    names = (f"passes ({passed.mean():.0%})", f"rejected ({(~passed).mean():.0%})")
    look: Look = {
        "color": (SKY, VERMILION),
        "hatch": ("", "//"),
        "edgecolor": "white",
        "linewidth": 0.3,
    }
    axes[2].hist([error[passed], error[~passed]], edges, stacked=True, label=names, **look)
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
    for entry, name, (colour, _, line) in zip(standardized.T, names, LOOKS, strict=False):
        inside = (np.abs(entry[:, None]) <= bound).mean(0)
        ax.plot(promised, inside, ls=line, color=colour, label=name)
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    ax.annotate("too wide", (0.1, 0.85), color=GREY)
    ax.annotate("too narrow", (0.6, 0.1), color=GREY)
    ax.set(xlabel="promised share inside the interval", ylabel="observed share", aspect="equal")
    ax.set_title("calibration of the members' variance")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.15))
    return figure
