"""One function per figure: arrays in, axes out. No training code, no torch.

Colours are Okabe and Ito's colour-blind-safe set; every series also differs in marker or line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle
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


def maze(ax: Axes, walls: NDArray[np.bool_], goal: Array | None = None) -> Axes:
    """Walls (rows, columns) in metres, origin at the centre; the goal (2,) as a ring."""
    rows, columns = walls.shape
    extent = (-columns / 2, columns / 2, -rows / 2, rows / 2)
    shade = np.where(walls, 0.25, np.nan)
    ax.imshow(shade, extent=extent, cmap="Greys", vmin=0, vmax=0.5, zorder=3)
    if goal is not None:
        ax.add_patch(Circle(tuple(goal), 0.45, fill=False, color=VERMILION, lw=2, zorder=5))
        ax.plot(*goal, "*", color=VERMILION, ms=9, zorder=5)
    ax.set(xlim=extent[:2], ylim=extent[2:], xlabel="x (m)", ylabel="y (m)", aspect="equal")
    for side in ("top", "right", "bottom", "left"):
        ax.spines[side].set_visible(False)
    return ax


def trajectories(
    ax: Axes, paths: Sequence[Array], colours: Array, label: str, norm: Normalize | None = None
) -> LineCollection:
    """Paths (T, 2) coloured by one number each, with a colour bar; returns the drawn lines."""
    lines = LineCollection(
        list(paths), array=np.asarray(colours), cmap=SEQUENTIAL, norm=norm, lw=0.8, alpha=0.8,
        zorder=2,
    )  # fmt: skip
    ax.add_collection(lines)
    ax.figure.colorbar(lines, ax=ax, label=label, shrink=0.8)
    return lines


def data_by_return(
    walls: NDArray[np.bool_],
    goal: Array,
    paths: Sequence[Array],
    returns: Array,
    terminated: NDArray[np.bool_],
) -> Figure:
    """The dataset: every episode's path coloured by its return, arrivals beside the rest."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6))
    norm = Normalize(float(np.min(returns)), float(np.max(returns)))
    groups = ((~terminated, "truncated"), (terminated, "terminated at the goal"))
    for ax, (chosen, name) in zip(axes, groups, strict=True):
        maze(ax, walls, goal)
        picked = [path for path, keep in zip(paths, chosen, strict=True) if keep]
        trajectories(ax, picked, returns[chosen], "return (decisions)", norm)
        ax.set_title(f"{len(picked)} episodes {name}")
    return figure


def field(ax: Axes, positions: Array, values: Array, label: str, title: str, **kwargs: Any) -> None:
    """One number per grid position (P, 2) as coloured squares over the maze."""
    x, y = positions.T
    shown = ax.scatter(x, y, c=values, s=13, marker="s", lw=0, zorder=1, **kwargs)
    ax.figure.colorbar(shown, ax=ax, label=label, shrink=0.8)
    ax.set_title(title)


def value_maps(
    walls: NDArray[np.bool_],
    goal: Array,
    positions: Array,
    learned: Array,
    exact: Array,
    spearman: float,
) -> Figure:
    """Learned V beside exact V*, same colours, ball at rest."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6))
    low, high = min(learned.min(), exact.min()), max(learned.max(), exact.max())
    titles = ("V, learned from the data", "V*, exact on a grid")
    for ax, values, title in zip(axes, (learned, exact), titles, strict=True):
        maze(ax, walls, goal)
        field(ax, positions, values, "discounted return", title,
              cmap=SEQUENTIAL, vmin=low, vmax=high)  # fmt: skip
    figure.suptitle(f"Spearman correlation over the data's states: {spearman:.2f}", fontsize=9)
    return figure


def uncertainty_maps(
    walls: NDArray[np.bool_],
    goal: Array,
    observations: Array,
    uncertainty: Array,
    error: Array,
    auroc: float,
    threshold: float,
) -> Figure:
    """U beside the true one-step error at the same states, and one against the other."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=(1, 1, 0.9))
    for ax, values, label in (
        (axes[0], uncertainty, "U (nats)"),
        (axes[1], error, "true one-step error"),
    ):
        maze(ax, walls, goal)
        order = np.argsort(values)
        x, y = observations[order, :2].T
        shown = ax.scatter(
            x, y, c=np.log10(np.maximum(values[order], 1e-6)), s=7, lw=0,
            cmap=SEQUENTIAL, zorder=2,
        )  # fmt: skip
        figure.colorbar(shown, ax=ax, label=f"log10 {label}", shrink=0.8)
        ax.set_title(label)
    ax = axes[2]
    ax.loglog(
        np.maximum(uncertainty, 1e-6), np.maximum(error, 1e-6), ".", ms=3, alpha=0.4, color=BLUE
    )
    ax.axvline(threshold, color=VERMILION, ls="--", label="threshold")
    ax.axhline(np.quantile(error, 0.9), color=GREY, ls=":", label="worst decile of errors")
    ax.set(xlabel="U (nats)", ylabel="true one-step error (data deviations)",
           title=f"finds the worst decile: AUROC {auroc:.2f}")  # fmt: skip
    ax.legend(loc="lower right")
    return figure


def calibration(standardized: Array) -> Figure:
    """Observed against promised share of held-out outcomes in the members' intervals."""
    from scipy.stats import norm

    figure, ax = plt.subplots(figsize=(3.6, 3.4))
    promised = np.linspace(0.02, 0.98, 49)
    bound = norm.ppf(0.5 + promised / 2)
    for dimension, name, line in zip(
        range(standardized.shape[1]),
        ("x", "y", "velocity x", "velocity y"),
        ("-", "--", "-.", ":"),
        strict=False,
    ):  # fmt: skip
        inside = (np.abs(standardized[:, dimension, None]) <= bound).mean(0)
        ax.plot(promised, inside, line, label=name)
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    ax.set(xlabel="promised share inside the interval", ylabel="observed share", aspect="equal",
           title="calibration of the members' variance")  # fmt: skip
    ax.legend()
    return figure


def continuations(
    walls: NDArray[np.bool_],
    goal: Array,
    real: Sequence[Array],
    imagined: Sequence[Array],
    replayed: Sequence[Array],
) -> Figure:
    """What was recorded, what was imagined from the same states, and what the maze makes of it."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9))
    for ax, paths, title, colour in zip(
        axes, (real, imagined, replayed),
        ("recorded", "imagined", "imagined actions, replayed in the simulator"),
        (GREY, BLUE, GREEN), strict=True,
    ):  # fmt: skip
        maze(ax, walls, goal)
        for path in paths:
            ax.plot(path[:, 0], path[:, 1], color=colour, lw=1.1, zorder=4)
            ax.plot(*path[0, :2], "o", color=ORANGE, ms=3, zorder=5)
        ax.set_title(title)
    return figure


def gain_by_threshold(
    quantiles: Array, imagined: Array, real: Array, counts: NDArray[np.int64], chosen: float
) -> Figure:
    """Mean gain in V as imagined and as replayed, over the quantile that sets the threshold."""
    figure, ax = plt.subplots(figsize=(4.6, 3.4))
    ax.plot(quantiles, imagined, "o-", color=BLUE, label="imagined")
    ax.plot(quantiles, real, "s--", color=GREEN, label="replayed in the simulator")
    ax.axvline(chosen, color=VERMILION, ls=":", label="quantile in use")
    ax.set(xlabel="quantile of held-out U that sets the threshold",
           ylabel="mean gain over V (discounted return)",
           title="gain of imagined plans, in the model and in truth")  # fmt: skip
    for x, y, n in zip(quantiles, imagined, counts, strict=True):
        ax.annotate(
            str(n), (x, y), textcoords="offset points", xytext=(0, 5), fontsize=6, ha="center"
        )
    ax.legend()
    return figure


def overview(
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
    """The paper on one maze in four panels: data, V, U, imagined continuations."""
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.7))
    for ax, title in zip(
        axes,
        (
            "1  offline data, by return",
            "2  V: how good is each place?",
            "3  U: where is the model unsure?",
            "4  recorded and imagined from there",
        ),
        strict=True,
    ):
        maze(ax, walls, goal)
        ax.set(title=title, xlabel="", ylabel="", xticks=[], yticks=[])
    lines = LineCollection(list(paths), array=returns, cmap=SEQUENTIAL, lw=0.7, alpha=0.7, zorder=2)
    axes[0].add_collection(lines)
    x, y = positions.T
    axes[1].scatter(x, y, c=learned, s=13, marker="s", lw=0, cmap=SEQUENTIAL, zorder=1)
    order = np.argsort(uncertainty)
    x, y = observations[order, :2].T
    axes[2].scatter(
        x, y, c=np.log10(np.maximum(uncertainty[order], 1e-6)), s=6, lw=0, cmap="magma", zorder=2
    )
    for group, colour, line in ((recorded, GREY, "--"), (imagined, BLUE, "-")):
        for path in group:
            axes[3].plot(path[:, 0], path[:, 1], line, color=colour, lw=1.1, zorder=4)
    for path in imagined:
        axes[3].plot(*path[0], "o", color=ORANGE, ms=3, zorder=5)
    return figure


def score_chart(
    scores: pd.DataFrame,
    methods: Sequence[str],
    intervals: Mapping[str, tuple[float, float]],
    title: str,
) -> Figure:
    """Every seed as a dot, the mean as a bar, its 95 % interval as a line.

    Args:
        scores: columns method, seed, score (one checkpoint label).
        intervals: method -> (low, high); NaN where there is a single seed.
    """
    figure, ax = plt.subplots(figsize=(5.2, 0.34 * len(methods) + 1.2))
    for row, method in enumerate(reversed(methods)):
        values = scores.loc[scores["method"] == method, "score"].to_numpy()
        colour = VERMILION if method == "ipd" else BLUE
        ax.barh(row, values.mean(), color=colour, alpha=0.25, height=0.7)
        ax.plot(values, np.full(len(values), row), "o", ms=4, color=colour)
        low, high = intervals.get(method, (np.nan, np.nan))
        if np.isfinite(low):
            ax.plot([low, high], [row, row], color="black", lw=1.5)
        ax.annotate(f"{values.mean():.1f}", (1.01, row), xycoords=("axes fraction", "data"),
                    va="center", fontsize=8)  # fmt: skip
    ax.set_yticks(range(len(methods)), list(reversed(methods)))
    ax.axvline(0, color=GREY, lw=0.6)
    ax.set(xlabel="normalized score", title=title)
    return figure
