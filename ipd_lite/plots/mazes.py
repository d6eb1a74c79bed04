"""Figures drawn on the maze."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from ipd_lite.plots.style import (
    BLUE,
    DIVERGING,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SEQUENTIAL,
    SKY,
    VERMILION,
    Array,
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
    """Mean gain in V as imagined and as replayed, over the quantile that sets the threshold.

    Args:
        counts: continuations behind each point, written beside it.
    """
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
    axes[1].scatter(x, y, c=learned, s=21, marker="s", lw=0, cmap=SEQUENTIAL, zorder=1)
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


def stitched_path(
    walls: NDArray[np.bool_], goal: Array, paths: Sequence[Array], pieces: Sequence[Array]
) -> Figure:
    """Recordings in grey; `pieces` are parts of different ones that lead to the goal together."""
    figure, ax = plt.subplots(figsize=(4.6, 3.9))
    maze(ax, walls, goal)
    ax.add_collection(LineCollection(list(paths), color=GREY, lw=0.4, alpha=0.2, zorder=1))
    for number, piece in enumerate(pieces):
        colour = (BLUE, ORANGE, GREEN, PINK, SKY)[number % 5]
        line = ("-", "--", "-.", ":")[number % 4]
        ax.plot(*piece.T, line, color=colour, lw=2.2, zorder=4, label=f"recording {number + 1}")
        ax.plot(*piece[0], "o", color=colour, ms=5, zorder=5)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    ax.set_title(f"{len(pieces)} recordings, one way to the goal")
    return figure


def around(ax: Axes, points: Array, margin: float = 0.6) -> None:
    """Show the square around points (..., 2), in metres."""
    flat = points.reshape(-1, 2)
    middle = (flat.min(0) + flat.max(0)) / 2
    half = float((flat.max(0) - flat.min(0)).max() / 2 + margin)
    ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))


def plan_fan(
    walls: NDArray[np.bool_], goal: Array, paths: Array, scores: Array, top: int
) -> Figure:
    """A planner's candidate futures (N, H + 1, 2) coloured by score (N,), the `top` best thick."""
    figure, ax = plt.subplots(figsize=(4.8, 3.9))
    maze(ax, walls, goal)
    order = np.argsort(scores)
    drawn = trajectories(ax, list(paths[order]), scores[order], "score of the plan (return)")
    drawn.set_linewidth([2.2 if i >= len(order) - top else 0.8 for i in range(len(order))])
    ax.plot(*paths[0, 0], "o", color=ORANGE, ms=6, zorder=6)
    around(ax, paths)
    ax.set_title(f"{len(paths)} imagined futures of {paths.shape[1] - 1} decisions")
    return figure


def policy_paths(
    walls: NDArray[np.bool_], goal: Array, groups: Mapping[str, Sequence[Array]]
) -> Figure:
    """One panel per policy: its paths (T, 2), coloured by how many decisions they took."""
    figure, axes = plt.subplots(
        1, len(groups), figsize=(3.9 * len(groups) + 0.4, 3.5), squeeze=False
    )
    longest = max(len(path) for paths in groups.values() for path in paths) - 1
    for ax, (title, paths) in zip(axes[0], groups.items(), strict=True):
        maze(ax, walls, goal)
        lengths = np.array([len(path) - 1.0 for path in paths])
        drawn = trajectories(ax, list(paths), lengths, "decisions", Normalize(0, longest))
        drawn.set_linewidth(1.3)
        starts = np.array([path[0] for path in paths])
        ax.plot(*starts.T, "o", color=ORANGE, ms=3, zorder=5)
        ax.set_title(f"{title}: {lengths.mean():.0f} on average")
    return figure


def step_fields(
    walls: NDArray[np.bool_],
    goal: Array,
    observations: Array,
    numbers: Array,
    chosen: NDArray[np.bool_],
    label: str,
    titles: tuple[str, str],
) -> Figure:
    """One number per recorded step (N,) at its position, and beside it a choice among the steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.7))
    limit = float(np.quantile(np.abs(numbers), 0.98))
    x, y = observations[:, :2].T
    for ax, title in zip((left, right), titles, strict=True):
        maze(ax, walls, goal)
        ax.set_title(title)
    shown = left.scatter(
        x, y, c=numbers, s=4, lw=0, cmap=DIVERGING, vmin=-limit, vmax=limit, zorder=2
    )
    figure.colorbar(shown, ax=left, label=label, shrink=0.8)
    colours = np.where(chosen, VERMILION, SKY)
    right.scatter(x, y, s=4, lw=0, c=list(colours), zorder=2)  # in order, so that none hides all
    for colour, name in ((SKY, "no"), (VERMILION, "yes")):
        right.plot([], [], ".", color=colour, label=name)
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def promises(
    x: Array, earned: Array, promised: Mapping[str, Array], xlabel: str, ylabel: str
) -> Figure:
    """Recorded returns (n,) over one number x (n,) per state, and what V promises there (n,)."""
    figure, ax = plt.subplots(figsize=(5.2, 3.4))
    ax.plot(x, earned, "o", color=GREY, ms=3, alpha=0.6, label="recorded return")
    order = np.argsort(x)
    styles = zip((VERMILION, BLUE, GREEN), ("--", "-", "-."), "s^D", strict=True)
    for (name, values), (colour, line, mark) in zip(promised.items(), styles, strict=False):
        ax.plot(x[order], values[order], line, marker=mark, ms=3, lw=1, color=colour, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return figure


def animation(
    walls: NDArray[np.bool_],
    goal: Array,
    groups: Mapping[str, Sequence[Array]],
    every: int = 1,
    most: int = 80,
) -> bytes:
    """Several balls per panel moving along their paths (T, 2), as a small looping animated PNG.

    Drawn without a window, so it works on servers; every viewer that shows a PNG shows at least its
    first frame. `groups`: panel title -> paths.
    """
    from PIL import Image

    figure, axes = plt.subplots(1, len(groups), figsize=(3.0 * len(groups), 2.9), dpi=70)
    balls = []
    for ax, (title, paths) in zip(np.atleast_1d(axes), groups.items(), strict=True):
        maze(ax, walls, goal)
        ax.set(title=title, xlabel="", ylabel="", xticks=[], yticks=[])
        (dots,) = ax.plot([], [], "o", color=BLUE, ms=5, zorder=6)
        (tails,) = ax.plot([], [], ".", color=SKY, ms=1.5, zorder=4)
        balls.append((dots, tails, paths))
    frames: list[Image.Image] = []
    longest = min(most, max(len(path) for paths in groups.values() for path in paths))
    for step in range(0, longest, every):
        for dots, tails, paths in balls:
            here = np.array([path[min(step, len(path) - 1)] for path in paths])
            behind = np.concatenate([path[: step + 1] for path in paths])
            dots.set_data(here[:, 0], here[:, 1])
            tails.set_data(behind[:, 0], behind[:, 1])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches=None)
        frames.append(Image.open(buffer).convert("RGB"))
        figure.set_layout_engine("none")
    plt.close(figure)
    colours = frames[-1].quantize(32)  # an animated PNG has one palette
    small = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
    result = io.BytesIO()
    small[0].save(
        result, "PNG", save_all=True, append_images=small[1:], duration=90 * every, loop=0
    )
    return result.getvalue()
