"""Figures drawn on the maze, positions in metres.

Shapes: walls (rows, columns) bool, goal (2,), a path (T, 2), states (N, 2 or more).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from ipd_lite.plots.style import (
    BLUE,
    DIVERGING,
    DOUBT,
    GREEN,
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

Paths = Sequence[Array]
BELOW: Look = {"location": "bottom", "aspect": 30, "pad": 0.02}
"""A colour bar below its panel."""


def maze(
    ax: Axes, walls: Flags, goal: Array | None = None, bare: bool = False, cut: float = 0.75
) -> Axes:
    """Walls around the origin, of the outer ones a strip, and the goal as a ring.

    Args:
        bare: without axes, for panels that stand side by side.
        cut: how much of the outer walls is left out, in metres.
    """
    rows, columns = walls.shape
    extent = (-columns / 2, columns / 2, -rows / 2, rows / 2)
    shade = np.where(walls, 0.2, np.nan)
    ax.imshow(shade, extent=extent, cmap="Greys", vmin=0, vmax=0.5, zorder=3)
    if goal is not None:
        ax.add_patch(Circle(tuple(goal), 0.45, fill=False, color=VERMILION, lw=2, zorder=5))
        ax.plot(*goal, "*", color=VERMILION, ms=9, zorder=5)
    ax.set(xlim=(extent[0] + cut, extent[1] - cut), ylim=(extent[2] + cut, extent[3] - cut))
    ax.set(xlabel="x (m)", ylabel="y (m)", aspect="equal")
    if bare:
        ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def trajectories(
    ax: Axes, paths: Paths, colours: Array, label: str, norm: Normalize | None = None, **bar: Any
) -> LineCollection:
    """Paths coloured by one number each, with a colour bar; returns the drawn lines."""
    lines = LineCollection(list(paths), array=np.asarray(colours), cmap=SEQUENTIAL, norm=norm)
    lines.set(lw=0.8, alpha=0.8, zorder=2, rasterized=True)
    ax.add_collection(lines)
    ax.figure.colorbar(lines, ax=ax, label=label, **{"shrink": 0.8, **bar})
    return lines


def field(
    ax: Axes, positions: Array, values: Array, label: str, norm: Normalize, **bar: Any
) -> None:
    """One number per position (P, 2) of a regular grid as coloured squares over the maze."""
    (columns, column), (rows, row) = (np.unique(x, return_inverse=True) for x in positions.T)
    grid = np.full((len(rows), len(columns)), np.nan)
    grid[row, column] = values
    shown = ax.pcolormesh(columns, rows, grid, norm=norm, cmap=SEQUENTIAL, zorder=1)
    shown.set_rasterized(True)
    ax.figure.colorbar(shown, ax=ax, label=label, **{"shrink": 0.8, **bar})


def per_square(
    ax: Axes, states: Array, numbers: Array, walls: Flags, label: str, **bar: Any
) -> None:
    """Positive numbers (N,) of states as their geometric mean in every third of a metre, on a
    logarithmic scale; squares without a state stay white."""
    bins = [np.linspace(-n / 2, n / 2, 3 * n + 1) for n in walls.shape[::-1]]
    x, y = states[:, :2].T
    counts, *edges = np.histogram2d(x, y, bins)
    sums, *_ = np.histogram2d(x, y, bins, weights=np.log(np.maximum(numbers, 1e-6)))
    means = np.exp(sums / np.where(counts, counts, np.nan))
    shown = ax.pcolormesh(*edges, means.T, norm=LogNorm(), cmap=DOUBT, zorder=1)
    shown.set_rasterized(True)
    ax.figure.colorbar(shown, ax=ax, label=label, **{"shrink": 0.8, **bar})


def doubt_against_error(
    ax: Axes, doubt: Array, error: Array, threshold: float, groups: Mapping[str, Flags]
) -> None:
    """U (N,) against the true error (N,): dots, and per group the median in each tenth of U."""
    doubt, error = np.maximum(doubt, 1e-6), np.maximum(error, 1e-6)
    for (name, chosen), (colour, marker, line) in zip(groups.items(), LOOKS, strict=False):
        x, y = doubt[chosen], error[chosen]
        ax.plot(x, y, marker, ms=1.5, mew=0, alpha=0.25, color=colour, rasterized=True)
        parts = np.array_split(np.argsort(x), min(10, len(x)))
        medians = np.array([(np.median(x[part]), np.median(y[part])) for part in parts]).T
        ax.plot(*medians, ls=line, marker=marker, ms=4, color=colour, mec="white", label=name)
    ax.axvline(threshold, color=VERMILION, ls="--", lw=1.2, label="the gate's threshold")
    ax.set(xscale="log", yscale="log", xlabel="U (nats)", ylabel="true error (data deviations)")


def data_by_return(
    walls: Flags, goal: Array, paths: Paths, returns: Array, terminated: Flags
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


def value_maps(
    walls: Flags, goal: Array, positions: Array, learned: Array, exact: Array, spearman: float
) -> Figure:
    """Learned V beside exact V*, same colours, ball at rest."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6))
    norm = Normalize(min(learned.min(), exact.min()), max(learned.max(), exact.max()))
    titles = ("V, learned from the data", "V*, exact on a grid")
    for ax, values, title in zip(axes, (learned, exact), titles, strict=True):
        maze(ax, walls, goal).set_title(title)
        field(ax, positions, values, "discounted return", norm)
    figure.suptitle(f"Spearman correlation over the data's states: {spearman:.2f}", fontsize=9)
    return figure


def uncertainty_maps(
    walls: Flags,
    goal: Array,
    states: Array,
    uncertainty: Array,
    error: Array,
    auroc: float,
    threshold: float,
) -> Figure:
    """U beside the true one-step error at the same states, and one against the other."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), width_ratios=(1, 1, 0.9))
    # The words of a colour bar must not seem to belong to the axis to the right of it.
    figure.set_layout_engine("constrained", wspace=0.08)
    maze(axes[0], walls, goal).set_title("where the model is unsure: U")
    per_square(axes[0], states, uncertainty, walls, "U (nats)")
    maze(axes[1], walls, goal).set_title("where it is wrong: true one-step error")
    per_square(axes[1], states, error, walls, "error (data deviations)")
    everything = {"median": np.ones(len(error), dtype=bool)}
    doubt_against_error(axes[2], uncertainty, error, threshold, everything)
    axes[2].legend(fontsize=7, loc="lower right", frameon=True)
    axes[2].set_title(f"U finds the worst tenth: AUROC {auroc:.2f}")
    return figure


def draw_paths(ax: Axes, paths: Paths, colour: str, line: str = "-", name: str = "") -> None:
    """Paths in one look, named once in the legend."""
    for number, path in enumerate(paths):
        label = name if number == 0 else None
        ax.plot(*path[:, :2].T, line, color=colour, lw=1.1, zorder=4, label=label)


def draw_starts(ax: Axes, paths: Paths, size: float = 3) -> None:
    """A dot where each path begins."""
    ax.plot(*np.array([path[0, :2] for path in paths]).T, "o", color=ORANGE, ms=size, zorder=5)


def continuations(
    walls: Flags, goal: Array, real: Paths, imagined: Paths, replayed: Paths
) -> Figure:
    """What was recorded, what was imagined from the same states, and what the maze makes of it."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.7))
    for ax, paths, title, colour in (
        (axes[0], real, "recorded", GREY),
        (axes[1], imagined, "imagined from the same states", BLUE),
        (axes[2], replayed, "imagined actions in the simulator", GREEN),
    ):
        maze(ax, walls, goal).set_title(title)
        draw_paths(ax, paths, colour)
        draw_starts(ax, paths)
    return figure


def gain_by_threshold(
    quantiles: Array, imagined: Array, real: Array, counts: Array, chosen: float
) -> Figure:
    """Mean gain in V as imagined and as replayed, over the quantile that sets the threshold.

    Args:
        counts: continuations behind each point, written along the lower edge.
    """
    figure, ax = plt.subplots(figsize=(4.6, 3.4))
    ax.plot(quantiles, imagined, "o-", color=BLUE, label="imagined")
    ax.plot(quantiles, real, "s--", color=GREEN, label="replayed in the simulator")
    ax.axvline(chosen, color=VERMILION, ls=":", label="quantile in use")
    ax.set_title("gain of imagined plans, in the model and in truth")
    ax.set(xlabel="quantile of held-out U that sets the threshold")
    ax.set(ylabel="mean gain over V (discounted return)")
    ax.margins(y=0.15)
    # A quantile without a plan has a count but no point: without room for it no axes are left.
    room = 0.05 * float(np.ptp(quantiles))
    ax.set_xlim(quantiles.min() - room, quantiles.max() + room)
    edge = ax.get_xaxis_transform()
    for x, n in zip(quantiles, counts, strict=True):
        ax.text(x, 0.02, str(n), transform=edge, fontsize=6, ha="center")
    figure.text(0.0, 0.07, " plans behind each point:", transform=ax.transAxes, fontsize=6)
    ax.legend()
    return figure


def overview(
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
    """The paper on one maze in four panels: data, V, U, imagined continuations."""
    figure, axes = plt.subplots(1, 4, figsize=(14, 4.1))
    titles = ("offline data", "V: how good is each place?", "U: where is the model unsure?")
    for number, title in enumerate((*titles, "imagined continuations")):
        maze(axes[number], walls, goal, bare=True).set(title=f"{number + 1}  {title}", anchor="N")
    trajectories(axes[0], paths, returns, "return of the recording", **BELOW)
    field(axes[1], positions, learned, "V (discounted return)", Normalize(), **BELOW)
    per_square(axes[2], states, uncertainty, walls, "U (nats, dark = unsure)", **BELOW)
    draw_paths(axes[3], recorded, GREY, "--", "recorded")
    draw_paths(axes[3], imagined, BLUE, "-", "imagined from the same states")
    draw_starts(axes[3], imagined)
    axes[3].legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2)
    return figure


def stitched_path(walls: Flags, goal: Array, paths: Paths, pieces: Paths) -> Figure:
    """Recordings in grey; `pieces` are parts of different ones that lead to the goal together."""
    figure, ax = plt.subplots(figsize=(4.6, 3.9))
    maze(ax, walls, goal).set_title(f"{len(pieces)} recordings, one way to the goal")
    ax.add_collection(LineCollection(list(paths), color=GREY, lw=0.4, alpha=0.2, zorder=1))
    for number, piece in enumerate(pieces):
        colour, _, line = LOOKS[number % len(LOOKS)]
        ax.plot(*piece.T, ls=line, color=colour, lw=2.2, zorder=4, label=f"recording {number + 1}")
        ax.plot(*piece[0], "o", color=colour, ms=5, zorder=5)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def around(ax: Axes, points: Array, margin: float = 0.6) -> None:
    """Show the square around points (..., 2)."""
    flat = points.reshape(-1, 2)
    middle = (flat.min(0) + flat.max(0)) / 2
    half = float((flat.max(0) - flat.min(0)).max() / 2 + margin)
    ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))


def plan_fan(walls: Flags, goal: Array, paths: Array, scores: Array, top: int) -> Figure:
    """A planner's candidate futures (N, H + 1, 2) coloured by score (N,), the `top` best thick."""
    figure, ax = plt.subplots(figsize=(4.8, 3.9))
    maze(ax, walls, goal)
    order = np.argsort(scores)
    drawn = trajectories(ax, list(paths[order]), scores[order], "score of the plan (return)")
    drawn.set_linewidth([2.2 if i >= len(order) - top else 0.8 for i in range(len(order))])
    draw_starts(ax, [paths[0]], size=6)
    around(ax, paths)
    ax.set_title(f"{len(paths)} imagined futures of {paths.shape[1] - 1} decisions")
    return figure


def policy_paths(walls: Flags, goal: Array, groups: Mapping[str, Paths]) -> Figure:
    """One panel per policy: its paths, coloured by how many decisions they took."""
    size = (3.9 * len(groups) + 0.4, 3.5)
    figure, axes = plt.subplots(1, len(groups), figsize=size, squeeze=False)
    longest = max(len(path) for paths in groups.values() for path in paths) - 1
    for ax, (title, paths) in zip(axes[0], groups.items(), strict=True):
        maze(ax, walls, goal)
        lengths = np.array([len(path) - 1.0 for path in paths])
        drawn = trajectories(ax, list(paths), lengths, "decisions", Normalize(0, longest))
        drawn.set_linewidth(1.3)
        draw_starts(ax, paths)
        ax.set_title(f"{title}: {lengths.mean():.0f} on average")
    return figure


def step_fields(
    walls: Flags,
    goal: Array,
    states: Array,
    numbers: Array,
    chosen: Flags,
    label: str,
    titles: tuple[str, str],
) -> Figure:
    """One number per recorded step (N,) at its position, and beside it a choice among the steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.7))
    limit = float(np.quantile(np.abs(numbers), 0.98))
    x, y = states[:, :2].T
    for ax, title in zip((left, right), titles, strict=True):
        maze(ax, walls, goal).set_title(title)
    shown = left.scatter(x, y, c=numbers, s=4, lw=0, cmap=DIVERGING, zorder=2)
    shown.set_clim(-limit, limit)
    figure.colorbar(shown, ax=left, label=label, shrink=0.8)
    colours = np.where(chosen, VERMILION, SKY)
    right.scatter(x, y, s=4, lw=0, c=list(colours), zorder=2)  # in order, so that none hides all
    for colour, name in ((SKY, "no"), (VERMILION, "yes")):
        right.plot([], [], ".", color=colour, label=name)
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def animation(
    walls: Flags, goal: Array, groups: Mapping[str, Paths], every: int = 1, most: int = 80
) -> bytes:
    """Several balls per panel moving along their paths, as a small looping animated PNG.

    Drawn without a window, so it works on servers; every viewer that shows a PNG shows at least its
    first frame. `groups`: panel title -> paths.
    """
    from PIL import Image

    figure, axes = plt.subplots(1, len(groups), figsize=(3.0 * len(groups), 2.9), dpi=70)
    balls = []
    for ax, (title, paths) in zip(np.atleast_1d(axes), groups.items(), strict=True):
        maze(ax, walls, goal, bare=True).set_title(title)
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
    options: Look = {"append_images": small[1:], "duration": 90 * every, "loop": 0}
    small[0].save(result, "PNG", save_all=True, **options)
    return result.getvalue()
