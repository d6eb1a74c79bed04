"""Figures drawn on the maze, positions in metres."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from ipd_lite.plots.style import (
    BLUE,
    DIVERGING,
    DOUBT,
    GREEN,
    GREY,
    LINES,
    ORANGE,
    PALETTE,
    SEQUENTIAL,
    SKY,
    VERMILION,
    Array,
)


def maze(ax: Axes, walls: NDArray[np.bool_], goal: Array | None = None, bare: bool = False) -> Axes:
    """Walls (rows, columns) around the origin, of the outer ones a strip; the goal (2,) as a ring.

    `bare`: without axes, for panels that stand side by side.
    """
    rows, columns = walls.shape
    extent = (-columns / 2, columns / 2, -rows / 2, rows / 2)
    shade = np.where(walls, 0.2, np.nan)
    ax.imshow(shade, extent=extent, cmap="Greys", vmin=0, vmax=0.5, zorder=3)
    if goal is not None:
        ax.add_patch(Circle(tuple(goal), 0.45, fill=False, color=VERMILION, lw=2, zorder=5))
        ax.plot(*goal, "*", color=VERMILION, ms=9, zorder=5)
    strip = 0.75
    ax.set(xlim=(extent[0] + strip, extent[1] - strip), ylim=(extent[2] + strip, extent[3] - strip),
           xlabel="x (m)", ylabel="y (m)", aspect="equal")  # fmt: skip
    if bare:
        ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def trajectories(
    ax: Axes, paths: Sequence[Array], colours: Array, label: str, norm: Normalize | None = None,
    **bar: Any,
) -> LineCollection:  # fmt: skip
    """Paths (T, 2) coloured by one number each, with a colour bar; returns the drawn lines."""
    lines = LineCollection(
        list(paths), array=np.asarray(colours), cmap=SEQUENTIAL, norm=norm, lw=0.8, alpha=0.8,
        zorder=2,
    )  # fmt: skip
    ax.add_collection(lines)
    ax.figure.colorbar(lines, ax=ax, label=label, shrink=0.8, **bar)
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
    groups = ((~terminated, "cut before they arrive"), (terminated, "arrive at the goal"))
    for ax, (chosen, name) in zip(axes, groups, strict=True):
        maze(ax, walls, goal)
        picked = [path for path, keep in zip(paths, chosen, strict=True) if keep]
        trajectories(ax, picked, returns[chosen], "return (-1 per decision)", norm)
        ax.set_title(f"{len(picked)} episodes {name}")
    return figure


def field(
    ax: Axes, positions: Array, values: Array, label: str, title: str,
    bar: Mapping[str, Any] = MappingProxyType({}), **colours: Any,
) -> None:  # fmt: skip
    """One number per grid position (P, 2) as coloured squares over the maze."""
    (columns, column), (rows, row) = (np.unique(x, return_inverse=True) for x in positions.T)
    grid = np.full((len(rows), len(columns)), np.nan)
    grid[row, column] = values
    shown = ax.pcolormesh(columns, rows, grid, zorder=1, rasterized=True, **colours)
    ax.figure.colorbar(shown, ax=ax, label=label, shrink=0.8, **bar)
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


def per_square(
    ax: Axes, observations: Array, numbers: Array, walls: NDArray[np.bool_], label: str,
    side: float = 1 / 3, **bar: Any,
) -> None:  # fmt: skip
    """Positive numbers (N,) of states (N, 2 or more) as their geometric mean in every square of
    `side` metres, on a logarithmic scale; squares without a state stay white."""
    bins = [np.arange(-n / 2, n / 2 + side, side) for n in walls.shape[::-1]]
    x, y = observations[:, :2].T
    counts, *edges = np.histogram2d(x, y, bins)
    sums, *_ = np.histogram2d(x, y, bins, weights=np.log(np.maximum(numbers, 1e-6)))
    means = np.exp(sums / np.where(counts, counts, np.nan))
    drawn = ax.pcolormesh(*edges, means.T, norm=LogNorm(), cmap=DOUBT, zorder=1, rasterized=True)
    ax.figure.colorbar(drawn, ax=ax, label=label, shrink=0.8, **bar)


def doubt_against_error(
    ax: Axes, doubt: Array, error: Array, threshold: float, groups: Mapping[str, NDArray[np.bool_]]
) -> None:
    """U (N,) against the true error (N,): dots, and per group the median in each tenth of U."""
    doubt, error = np.maximum(doubt, 1e-6), np.maximum(error, 1e-6)
    for (name, chosen), colour, marker, line in zip(
        groups.items(), (BLUE, ORANGE), "os", LINES, strict=False
    ):
        x, y = doubt[chosen], error[chosen]
        ax.plot(x, y, marker, ms=1.5, mew=0, alpha=0.25, color=colour, rasterized=True)
        parts = np.array_split(np.argsort(x), min(10, len(x)))
        ax.plot([np.median(x[part]) for part in parts], [np.median(y[part]) for part in parts],
                ls=line, marker=marker, ms=4, color=colour, mec="white", mew=0.5,
                label=name)  # fmt: skip
    ax.axvline(threshold, color=VERMILION, ls="--", lw=1.2, label="the gate's threshold")
    ax.set(xscale="log", yscale="log", xlabel="U (nats)", ylabel="true error (data deviations)")


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
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), width_ratios=(1, 1, 0.9))
    labels = ("U (nats)", "error (data deviations)")
    titles = ("where the model is unsure: U", "where it is wrong: true one-step error")
    for ax, values, label, title in zip(axes, (uncertainty, error), labels, titles, strict=False):
        maze(ax, walls, goal)
        per_square(ax, observations, values, walls, label)
        ax.set_title(title)
    doubt_against_error(
        axes[2], uncertainty, error, threshold, {"median": np.ones(len(error), dtype=bool)}
    )
    axes[2].legend(fontsize=7, loc="lower right", frameon=True)
    axes[2].set_title(f"U finds the worst tenth: AUROC {auroc:.2f}")
    return figure


def continuations(
    walls: NDArray[np.bool_],
    goal: Array,
    real: Sequence[Array],
    imagined: Sequence[Array],
    replayed: Sequence[Array],
) -> Figure:
    """What was recorded, what was imagined from the same states, and what the maze makes of it."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.7))
    for ax, paths, title, colour in zip(
        axes, (real, imagined, replayed),
        ("recorded", "imagined from the same states", "imagined actions in the simulator"),
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
    figure, axes = plt.subplots(1, 4, figsize=(14, 4.1))
    titles = (
        "1  offline data", "2  V: how good is each place?", "3  U: where is the model unsure?",
        "4  imagined continuations",
    )  # fmt: skip
    for ax, title in zip(axes, titles, strict=True):
        maze(ax, walls, goal, bare=True).set(title=title, anchor="N")
    bar: dict[str, Any] = {"location": "bottom", "aspect": 30, "pad": 0.02}
    trajectories(axes[0], paths, returns, "return of the recording", **bar)
    field(axes[1], positions, learned, "V (discounted return)", titles[1], cmap=SEQUENTIAL, bar=bar)
    per_square(axes[2], observations, uncertainty, walls, "U (nats, dark = unsure)", **bar)
    for group, colour, line, name in (
        (recorded, GREY, "--", "recorded"), (imagined, BLUE, "-", "imagined from the same states"),
    ):  # fmt: skip
        for number, path in enumerate(group):
            axes[3].plot(path[:, 0], path[:, 1], line, color=colour, lw=1.1, zorder=4,
                         label=name if number == 0 else None)  # fmt: skip
    starts = np.array([path[0] for path in imagined])
    axes[3].plot(*starts.T, "o", color=ORANGE, ms=3, zorder=5)
    axes[3].legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2)
    return figure


def stitched_path(
    walls: NDArray[np.bool_], goal: Array, paths: Sequence[Array], pieces: Sequence[Array]
) -> Figure:
    """Recordings in grey; `pieces` are parts of different ones that lead to the goal together."""
    figure, ax = plt.subplots(figsize=(4.6, 3.9))
    maze(ax, walls, goal)
    ax.add_collection(LineCollection(list(paths), color=GREY, lw=0.4, alpha=0.2, zorder=1))
    for number, piece in enumerate(pieces):
        colour, line = PALETTE[number % len(PALETTE)], LINES[number % 4]
        ax.plot(*piece.T, ls=line, color=colour, lw=2.2, zorder=4, label=f"recording {number + 1}")
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
        maze(ax, walls, goal, bare=True)
        ax.set_title(title)
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
