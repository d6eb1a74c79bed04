"""One function per figure: arrays in, axes out. No training code, no torch.

Colours are Okabe and Ito's colour-blind-safe set; every series also differs in marker or line.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Picture:
    """A PNG and the words for readers who cannot see it.

    The words lie where nbconvert and nbviewer look for them (the metadata of the image), and they
    stand for the picture wherever there is only text.
    """

    data: bytes
    alt: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[Any, Any]:
        image = base64.b64encode(self.data).decode()
        return {"image/png": image, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


def show(drawn: Figure | bytes, alt: str) -> None:
    """Display a figure (and close it), or a PNG, in a notebook; `alt` says what is to be seen."""
    from IPython.display import display

    if isinstance(drawn, Figure):
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=drawn.dpi)
        plt.close(drawn)
        drawn = buffer.getvalue()
    display(Picture(drawn, alt))


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


def return_histograms(table: pd.DataFrame, columns: int = 4) -> Figure:
    """One panel per task: recorded episodes by their return, the mean as a line.

    Args:
        table: rows (task, source, transitions, mean, left, right, episodes), bin after bin.
    """
    groups = list(table.groupby("task", sort=False))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 1.9 * rows), squeeze=False)
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    for ax, (name, group) in zip(axes.flat, groups, strict=False):
        first = group.iloc[0]
        ax.bar(
            group["left"], group["episodes"], width=group["right"] - group["left"], align="edge",
            color=SKY, edgecolor=BLUE, linewidth=0.3,
        )  # fmt: skip
        ax.axvline(first["mean"], color=VERMILION, ls="--", lw=1.2)
        ax.set(yscale="log", ylim=(0.7, None))  # a single good episode stays visible
        ax.set_title(f"{name}\n{first['source']}, {first['transitions']:,} steps", fontsize=8)
    figure.supxlabel("undiscounted return of a recorded episode (dashed: mean)")
    figure.supylabel("episodes (logarithmic)")
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
    ax.set_ylim(-0.6, len(methods) - 0.4)
    ax.axvline(0, color=GREY, lw=0.6)
    ax.set(xlabel="normalized score", title=title)
    return figure


# -- the course ----------------------------------------------------------------------------------


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
    for (name, sample), colour, line in zip(
        values.items(), (BLUE, ORANGE, GREEN), ("-", "--", "-."), strict=False
    ):
        ax.hist(
            sample,
            edges.tolist(),
            histtype="step",
            color=colour,
            ls=line,
            lw=1.5,
            label=name,
            log=log,
        )
    ax.set(xlabel=label, ylabel="count", title=title)
    ax.legend()
    return figure


def expectiles(samples: Array, levels: Mapping[float, float]) -> Figure:
    """A sample (n,) and its expectiles: level tau -> position."""
    figure, ax = plt.subplots(figsize=(4.8, 3.0))
    ax.hist(samples, 30, color=SKY, alpha=0.6)
    for (tau, position), line in zip(levels.items(), ("-", "--", "-.", ":", "-"), strict=False):
        ax.axvline(position, color=VERMILION, ls=line, label=f"tau = {tau:g}")
    ax.set(xlabel="Q of the actions that the data took", ylabel="count",
           title="one state, many actions, several expectiles")  # fmt: skip
    ax.legend()
    return figure


def lines(
    series: Mapping[str, tuple[Array, Array]], xlabel: str, ylabel: str, title: str, **axes: Any
) -> Figure:
    """Named curves (x (n,), y (n,)); `axes` goes to `Axes.set` (scales, limits)."""
    figure, ax = plt.subplots(figsize=(4.8, 3.2))
    styles = zip(
        (BLUE, ORANGE, GREEN, PINK, VERMILION), ("-", "--", "-.", ":", "-"), "os^dv", strict=True
    )
    for (name, (x, y)), (colour, line, marker) in zip(series.items(), styles, strict=False):
        shown = marker if len(x) <= 20 else ""
        ax.plot(x, y, line, marker=shown, ms=4, color=colour, label=name)
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


def score_curve(
    frame: pd.DataFrame,
    x: str,
    xlabel: str,
    title: str,
    reference: Mapping[str, float],
    **axes: Any,
) -> Figure:
    """Scores over one setting: every seed a dot, their mean a line, references as level lines.

    The settings stand side by side at equal distances, whatever their values.

    Args:
        frame: columns `x` and score, one row per seed.
        axes: passed to `Axes.set` (limits).
    """
    figure, ax = plt.subplots(figsize=(5.2, 3.3))
    mean = frame.groupby(x)["score"].mean()
    places = {value: place for place, value in enumerate(mean.index)}
    ax.plot(range(len(mean)), mean.to_numpy(), "-", color=BLUE, label="mean over seeds")
    ax.plot(frame[x].map(places), frame["score"], "o", color=BLUE, ms=4, alpha=0.6,
            label="one seed")  # fmt: skip
    ax.set_xticks(range(len(mean)), [f"{value:g}" for value in mean.index])
    for (name, level), colour, line in zip(
        reference.items(), (VERMILION, GREEN, GREY), ("--", "-.", ":"), strict=False
    ):
        ax.axhline(level, color=colour, ls=line, label=name)
    ax.set(xlabel=xlabel, ylabel="normalized score", title=title, **axes)
    ax.legend(fontsize=7)
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
