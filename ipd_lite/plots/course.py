"""Figures of the notebooks alone: one idea each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ipd_lite.plots.mazes import maze
from ipd_lite.plots.style import (
    BLUE,
    GREY,
    LOOKS,
    ORANGE,
    SEQUENTIAL,
    SKY,
    VERMILION,
    Array,
    Flags,
    Look,
)


def episode_panels(
    walls: Flags, goal: Array, paths: Sequence[Array]
) -> tuple[Figure, tuple[Axes, Axes]]:
    """All paths (T, 2) in grey beside empty axes of the distance to the goal over the steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.5), width_ratios=(1.1, 1))
    maze(left, walls, goal)
    left.add_collection(LineCollection(list(paths), color=GREY, lw=0.4, alpha=0.15, zorder=1))
    longest = max(len(path) for path in paths)
    furthest = max(float(np.linalg.norm(path - goal, axis=1).max()) for path in paths)
    right.axhspan(0, 0.45, color=VERMILION, alpha=0.15, lw=0)
    right.set(xlim=(0, longest - 1), ylim=(0, furthest))
    right.set(xlabel="step (decisions)", ylabel="distance to the goal (m)")
    return figure, (left, right)


def intentions(walls: Flags, goal: Array, onward: Array, actions: Array) -> Figure:
    """Where recordings went from one place (P, T, 2), and the actions (N, 2) recorded there."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.5))
    maze(left, walls, goal).set_title("the next decisions of different recordings")
    left.add_collection(LineCollection(list(onward), color=BLUE, lw=0.7, alpha=0.5, zorder=2))
    left.plot(*onward[:, 0].mean(0), "o", color=ORANGE, ms=6, zorder=5)
    right.plot(*actions.T, ".", color=BLUE, ms=3, alpha=0.4, label="recorded")
    right.plot(*actions.mean(0), "*", color=VERMILION, ms=14, label="mean: the clone's answer")
    right.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
    right.set(xlabel="force along x", ylabel="force along y", title="their actions at this place")
    right.legend(loc="upper left", framealpha=0.9, frameon=True)
    return figure


def histogram(
    values: Mapping[str, Array], label: str, title: str, bins: int = 40, log: bool = False
) -> Figure:
    """Named samples (n,) as outlined histograms on one axis."""
    figure, ax = plt.subplots(figsize=(4.8, 3.0))
    everything = np.concatenate([np.ravel(v) for v in values.values()])
    edges = np.linspace(everything.min(), everything.max() + 1e-9, bins + 1).tolist()
    for (name, sample), (colour, _, line) in zip(values.items(), LOOKS, strict=False):
        outline: Look = {"histtype": "step", "color": colour, "ls": line, "lw": 1.5}
        ax.hist(sample, edges, label=name, log=log, **outline)
    ax.set(xlabel=label, ylabel="count", title=title)
    ax.legend()
    return figure


def lines(
    series: Mapping[str, tuple[Array, Array]], xlabel: str, ylabel: str, title: str, **axes: Any
) -> Figure:
    """Named curves (x (n,), y (n,)); `axes` goes to `Axes.set` (scales, limits)."""
    figure, ax = plt.subplots(figsize=(4.8, 3.2))
    for (name, (x, y)), (colour, marker, line) in zip(series.items(), LOOKS, strict=False):
        shown = marker if len(x) <= 20 else ""
        ax.plot(x, y, ls=line, marker=shown, ms=4, color=colour, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, **axes)
    ax.legend()
    return figure


def promises(
    x: Array, earned: Array, promised: Mapping[str, Array], xlabel: str, ylabel: str
) -> Figure:
    """Recorded returns (n,) over one number x (n,) per state, and what V promises there (n,)."""
    figure, ax = plt.subplots(figsize=(5.2, 3.4))
    ax.plot(x, earned, "o", color=GREY, ms=3, alpha=0.6, label="recorded return")
    order = np.argsort(x)
    for (name, values), (colour, mark, line) in zip(promised.items(), LOOKS[1:], strict=False):
        look: Look = {"ls": line, "marker": mark, "ms": 3, "lw": 1, "color": colour}
        ax.plot(x[order], values[order], label=name, **look)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return figure


def ensemble_fit(
    x: Array, y: Array, grid: Array, means: Array, deviations: Array, truth: Array | None = None
) -> Figure:
    """Data (n,), members' means and deviations (M, G) over grid (G,): aleatoric and epistemic.

    Left, every member with its band of two deviations; right, both parts of the total variance.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    left.plot(x, y, ".", color=GREY, ms=3, alpha=0.6, label="data")
    for number, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
        left.plot(grid, mean, color=BLUE, lw=1, label="members" if number == 0 else None)
        low, high = mean - 2 * deviation, mean + 2 * deviation
        left.fill_between(grid, low, high, color=SKY, alpha=0.12, lw=0)
    if truth is not None:
        left.plot(grid, truth, "--", color="black", lw=1, label="truth")
    spread = 2 * float(np.abs(y).max())
    left.set(xlabel="x", ylabel="y", ylim=(-spread, spread), title="five members, each a Gaussian")
    left.legend()
    names = ("aleatoric: mean predicted variance", "epistemic: variance of the means")
    right.semilogy(grid, (deviations**2).mean(0), "--", color=ORANGE, label=names[0])
    right.semilogy(grid, means.var(0) + 1e-8, color=BLUE, label=names[1])
    right.set(xlabel="x", ylabel="variance", title="two kinds of not knowing")
    right.set_ylim(top=20 * right.get_ylim()[1])  # room for the legend
    right.legend(loc="upper center")
    return figure


def two_gaussians(grid: Array, first: Array, second: Array, title: str) -> Figure:
    """Two densities (G,) over grid (G,)."""
    series = {"member 1": (grid, first), "member 2": (grid, second)}
    return lines(series, "predicted next position", "density", title, ylim=(0, 1.7))


def attention(weights: Array, labels: Sequence[str], title: str) -> Figure:
    """Attention weights (heads, T, T), one panel per head: rows look at columns; no later ones."""
    size = (2.3 * len(weights) + 0.8, 2.7)
    hidden = np.triu(np.ones(weights.shape[1:], dtype=bool), 1)
    figure, axes = plt.subplots(1, len(weights), figsize=size, squeeze=False)
    for number, (ax, weight) in enumerate(zip(axes[0], weights, strict=True)):
        shown = ax.imshow(np.where(hidden, np.nan, weight), cmap=SEQUENTIAL, vmin=0, vmax=1)
        ax.set_xticks(range(len(labels)), labels, rotation=90)
        ax.set_yticks(range(len(labels)), labels if number == 0 else [])
        ax.set_title(f"head {number + 1}")
    figure.colorbar(shown, ax=axes[0].tolist(), label="weight", shrink=0.8)
    figure.suptitle(title, fontsize=9)
    return figure


def flow(boxes: Sequence[tuple[str, str, str]]) -> Figure:
    """Stages as boxes from left to right: (name, paper's section, what comes out and its shape)."""
    figure, ax = plt.subplots(figsize=(1.5 * len(boxes), 1.5))
    ax.set(xlim=(-0.1, len(boxes)), ylim=(0, 1))
    ax.axis("off")
    box = {"boxstyle": "round,pad=0.5", "fc": "#EAF3FA", "ec": BLUE}
    arrow = {"arrowstyle": "->", "color": GREY}
    for place, (name, section, result) in enumerate(boxes):
        middle: Look = {"ha": "center", "va": "center"}
        ax.text(place + 0.42, 0.72, f"{name}\n{section}", fontsize=10, bbox=box, **middle)
        ax.text(place + 0.42, 0.28, result, fontsize=8, family="monospace", **middle)
        if place:
            ax.annotate("", (place + 0.06, 0.72), (place - 0.22, 0.72), arrowprops=arrow)
    return figure
