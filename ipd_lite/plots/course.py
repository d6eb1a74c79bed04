"""Figures of the notebooks alone: one idea each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ipd_lite.plots.mazes import maze
from ipd_lite.plots.style import (
    BLUE,
    GREEN,
    GREY,
    LINES,
    MARKERS,
    ORANGE,
    PALETTE,
    SEQUENTIAL,
    SKY,
    VERMILION,
    Array,
)


def episode_panels(
    walls: NDArray[np.bool_], goal: Array, paths: Sequence[Array]
) -> tuple[Figure, tuple[Axes, Axes]]:
    """All paths (T, 2) in grey beside empty axes of the distance to the goal over the steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.5), width_ratios=(1.1, 1))
    maze(left, walls, goal)
    left.add_collection(LineCollection(list(paths), color=GREY, lw=0.4, alpha=0.15, zorder=1))
    longest = max(len(path) for path in paths)
    furthest = max(float(np.linalg.norm(path - goal, axis=1).max()) for path in paths)
    right.axhspan(0, 0.45, color=VERMILION, alpha=0.15, lw=0)
    right.set(xlim=(0, longest - 1), ylim=(0, furthest), xlabel="step (decisions)",
              ylabel="distance to the goal (m)")  # fmt: skip
    return figure, (left, right)


def intentions(walls: NDArray[np.bool_], goal: Array, onward: Array, actions: Array) -> Figure:
    """Where recordings went from one place (P, T, 2), and the actions (N, 2) recorded there."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.5))
    maze(left, walls, goal)
    left.add_collection(LineCollection(list(onward), color=BLUE, lw=0.7, alpha=0.5, zorder=2))
    left.plot(*onward[:, 0].mean(0), "o", color=ORANGE, ms=6, zorder=5)
    left.set_title("the next decisions of different recordings")
    right.plot(*actions.T, ".", color=BLUE, ms=3, alpha=0.4, label="recorded")
    right.plot(*actions.mean(0), "*", color=VERMILION, ms=14, label="mean: the clone's answer")
    right.set(xlabel="force along x", ylabel="force along y", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1),
              aspect="equal", title="their actions at this place")  # fmt: skip
    right.legend(loc="upper left", framealpha=0.9, frameon=True)
    return figure


def histogram(
    values: Mapping[str, Array], label: str, title: str, bins: int = 40, log: bool = False
) -> Figure:
    """Named samples (n,) as outlined histograms on one axis."""
    figure, ax = plt.subplots(figsize=(4.8, 3.0))
    everything = np.concatenate([np.ravel(v) for v in values.values()])
    edges = np.linspace(everything.min(), everything.max() + 1e-9, bins + 1)
    for (name, sample), colour, line in zip(values.items(), PALETTE, LINES, strict=False):
        ax.hist(sample, edges.tolist(), histtype="step", color=colour, ls=line, lw=1.5, label=name,
                log=log)  # fmt: skip
    ax.set(xlabel=label, ylabel="count", title=title)
    ax.legend()
    return figure


def lines(
    series: Mapping[str, tuple[Array, Array]], xlabel: str, ylabel: str, title: str, **axes: Any
) -> Figure:
    """Named curves (x (n,), y (n,)); `axes` goes to `Axes.set` (scales, limits)."""
    figure, ax = plt.subplots(figsize=(4.8, 3.2))
    looks = zip(PALETTE, LINES, MARKERS, strict=True)
    for (name, (x, y)), (colour, line, marker) in zip(series.items(), looks, strict=False):
        shown = marker if len(x) <= 20 else ""
        ax.plot(x, y, ls=line, marker=shown, ms=4, color=colour, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, **axes)
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
        name = "members" if number == 0 else None
        left.plot(grid, mean, color=BLUE, lw=1, label=name)
        left.fill_between(
            grid, mean - 2 * deviation, mean + 2 * deviation, color=SKY, alpha=0.12, lw=0
        )
    if truth is not None:
        left.plot(grid, truth, "--", color="black", lw=1, label="truth")
    spread = 2 * float(np.abs(y).max())
    left.set(xlabel="x", ylabel="y", ylim=(-spread, spread), title="five members, each a Gaussian")
    left.legend()
    right.semilogy(grid, (deviations**2).mean(0), "--", color=ORANGE,
                   label="aleatoric: mean predicted variance")  # fmt: skip
    right.semilogy(grid, means.var(0) + 1e-8, color=BLUE, label="epistemic: variance of the means")
    right.set(xlabel="x", ylabel="variance", title="two kinds of not knowing")
    right.set_ylim(top=20 * right.get_ylim()[1])  # room for the legend
    right.legend(loc="upper center")
    return figure


def two_gaussians(grid: Array, first: Array, second: Array, title: str) -> Figure:
    """Two densities (G,) over grid (G,)."""
    figure, ax = plt.subplots(figsize=(4.8, 3.0))
    for density, colour, line, name in (
        (first, BLUE, "-", "member 1"),
        (second, ORANGE, "--", "member 2"),
    ):
        ax.plot(grid, density, line, color=colour, label=name)
    ax.set(xlabel="predicted next position", ylabel="density", ylim=(0, 1.7), title=title)
    ax.legend(loc="upper left")
    return figure


def curves_apart(
    groups: Mapping[str, Sequence[Array]], stops: NDArray[np.int64], xlabel: str, ylabel: str
) -> Figure:
    """One panel per run: its curve (T,) from every group, and a dotted line at its stop."""
    count = len(stops)
    figure, axes = plt.subplots(
        1, count, figsize=(2.3 * count + 0.4, 2.5), sharey=True, squeeze=False
    )
    styles = ((BLUE, "-", "o"), (GREEN, "--", "s"), (GREY, ":", "^"))
    for number, ax in enumerate(axes[0]):
        for (name, curves), (colour, line, mark) in zip(groups.items(), styles, strict=False):
            ax.plot(curves[number], line, marker=mark, ms=3, color=colour, label=name)
        ax.axvline(float(stops[number]), color=VERMILION, ls=":", label="the gate stops here")
        ax.set_xlabel(xlabel)
    axes[0, 0].set_ylabel(ylabel)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def attention(weights: Array, labels: Sequence[str], title: str) -> Figure:
    """Attention weights (heads, T, T), one panel per head: rows look at columns; no later ones."""
    heads = len(weights)
    hidden = np.triu(np.ones(weights.shape[1:], dtype=bool), 1)
    figure, axes = plt.subplots(1, heads, figsize=(2.3 * heads + 0.8, 2.7), squeeze=False)
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
    for place, (name, section, result) in enumerate(boxes):
        ax.text(
            place + 0.42, 0.72, f"{name}\n{section}", ha="center", va="center", fontsize=10,
            bbox={"boxstyle": "round,pad=0.5", "fc": "#EAF3FA", "ec": BLUE},
        )  # fmt: skip
        ax.text(
            place + 0.42, 0.28, result, ha="center", va="center", fontsize=8, family="monospace"
        )
        if place:
            ax.annotate(
                "", (place + 0.06, 0.72), (place - 0.22, 0.72),
                arrowprops={"arrowstyle": "->", "color": GREY},
            )  # fmt: skip
    return figure
