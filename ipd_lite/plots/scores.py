"""The paper's figures 1 and 3 to 9: frames and arrays in, figures out. No training code, no torch.

Sizes are those of print: one column (3.5 inches) or a page's two, letters of 6.5 points and more.
Every seed is a mark of its own; series differ in colour, marker and line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray

from ipd_lite.plots.mazes import maze
from ipd_lite.plots.style import BLUE, GREEN, GREY, ORANGE, PINK, SEQUENTIAL, SKY, VERMILION, Array

COLUMN, PAGE = 3.5, 7.2
"""Inches: one column and both columns of a printed page."""


NEARBY = 15.0
"""Points of score within which a method is drawn on IPD's own scale (figure 4)."""


PALETTE = (VERMILION, BLUE, GREEN, ORANGE, PINK, SKY, GREY, "#000000", "#8C6D31")


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


Line = str | tuple[int, tuple[int, ...]]


LINES: tuple[Line, ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1)),
    (0, (3, 1, 1, 1)),
    (0, (1, 1)),
    (0, (8, 2)),
    "-",
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
    threshold: float,
    recorded: Sequence[Array],
    imagined: Sequence[Array],
) -> Figure:
    """Figure 1: the method as a flow, every panel drawn from one real run."""
    figure, axes = plt.subplots(2, 3, figsize=(PAGE, 5.0))
    titles = (
        "1  offline data, by return", "2  V by implicit Q-learning (3.1)",
        "3  U of the ensemble (3.2)", "4  where the data falls short (3.3)",
        "5  planned continuations, gated", "6  D_aug teaches the transformer (3.4)",
    )  # fmt: skip
    places = axes.ravel()[[0, 1, 2, 5, 4, 3]]  # the second row runs backwards: a loop
    for ax, title in zip(places, titles, strict=True):
        maze(ax, walls, goal)
        ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
        ax.set_title(title, fontsize=8)
    lines = LineCollection(
        list(paths), array=returns, cmap=SEQUENTIAL, lw=0.5, alpha=0.7, zorder=2, rasterized=True
    )
    places[0].add_collection(lines)
    places[1].scatter(
        *positions.T, c=learned, s=6, marker="s", lw=0, cmap=SEQUENTIAL, zorder=1, rasterized=True
    )
    order = np.argsort(uncertainty)
    doubtful = uncertainty[order] > threshold
    x, y = observations[order, :2].T
    places[2].scatter(
        x[~doubtful], y[~doubtful], s=4, lw=0, color=SKY, zorder=2, rasterized=True,
        label="U inside",
    )  # fmt: skip
    places[2].scatter(
        x[doubtful], y[doubtful], s=5, marker="x", lw=0.6, color=VERMILION, zorder=2,
        rasterized=True, label="beyond the threshold",
    )  # fmt: skip
    places[2].legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=6, ncols=2,
                     handletextpad=0.1, columnspacing=0.6)  # fmt: skip
    for path in recorded:
        places[3].plot(*path.T, "--", color=GREY, lw=0.9, zorder=4)
        places[3].plot(*path[0], "o", color=ORANGE, ms=2.5, zorder=5)
    for path in imagined:
        places[4].plot(*path.T, "-", color=BLUE, lw=0.9, zorder=4)
        places[4].plot(*path[0], "o", color=ORANGE, ms=2.5, zorder=5)
    for group, colour, style_of in ((recorded, GREY, "--"), (imagined, BLUE, "-")):
        for path in group:
            places[5].plot(*path.T, style_of, color=colour, lw=0.7, zorder=4)
    notes = (
        "(s, a, r, s')", "V(s), Q(s, a), policy", "p(s', r | s, a), U(s, a)",
        "V(s) - bootstrapped return", "first action of the best plans, repeated",
        "|pi - a|^2 - alpha Q(s, pi), token V(s)",
    )  # fmt: skip
    for ax, note in zip(places, notes, strict=True):
        ax.text(0.5, -0.03 if ax is not places[2] else -0.16, note, transform=ax.transAxes,
                ha="center", va="top", fontsize=7)  # fmt: skip
    for first, second in pairwise(places):
        _arrow(figure, first, second)
    return figure


def _arrow(figure: Figure, first: Axes, second: Axes) -> None:
    """An arrow from one panel to its neighbour."""
    row = first.get_subplotspec().rowspan.start == second.get_subplotspec().rowspan.start  # type: ignore[union-attr]
    if row:
        forward = (
            first.get_subplotspec().colspan.start < second.get_subplotspec().colspan.start  # type: ignore[union-attr]
        )
        ends = ((1.01, 0.5), (-0.01, 0.5)) if forward else ((-0.01, 0.5), (1.01, 0.5))
    else:
        ends = ((1.03, 0.35), (1.03, 0.65))
    arrow = ConnectionPatch(
        ends[0], ends[1], "axes fraction", "axes fraction", axesA=first, axesB=second,
        arrowstyle="-|>", color="black", lw=1.2, mutation_scale=9,
    )  # fmt: skip
    figure.add_artist(arrow)


def _family_panels(
    scores: pd.DataFrame, below: bool = False
) -> tuple[Figure, dict[str, Axes], Axes]:
    """Score axes side by side, one per family of tasks (their scores differ too much for one), and
    one more axis below them all if asked for (else the first one again)."""
    families = list(dict.fromkeys(scores["family"]))
    figure, axes = plt.subplot_mosaic(
        [families, ["below"] * len(families)] if below else [families],
        figsize=(COLUMN if len(families) == 1 else PAGE, 4.6 if below else 2.7),
        height_ratios=(1.1, 1) if below else (1,),
    )
    return figure, {name: axes[name] for name in families}, axes["below" if below else families[0]]


def _look(index: int) -> tuple[str, str, Line]:
    """Colour, marker and line of the index-th task of a panel; from the tenth on they repeat."""
    turn = index % len(PALETTE)
    return PALETTE[turn], MARKERS[turn], LINES[turn]


def ablation(scores: pd.DataFrame, plans: pd.DataFrame, methods: Mapping[str, str]) -> Figure:
    """Figure 3: last scores per way of augmenting, and the gain of its plans imagined and true.

    Args:
        scores: columns task, family, method, seed, score. plans: columns task, method, seed,
            imagined_gain, replayed_gain (may be empty). methods: method -> its name in the figure.
    """
    figure, panels, bottom = _family_panels(scores, below=True)
    for family, top in panels.items():
        rows = scores[scores["family"] == family]
        shown = [m for m in methods if m in set(rows["method"])]
        count = rows["task"].nunique()
        half = min(0.12, 0.35 / count)
        for index, (task, group) in enumerate(rows.groupby("task", sort=False)):
            colour, marker, _ = _look(index)
            offset = (index - (count - 1) / 2) * 0.8 / count
            for place, method in enumerate(shown):
                values = group.loc[group["method"] == method, "score"].to_numpy(float)
                if not len(values):
                    continue
                top.plot(np.full(len(values), place + offset), values, marker, ms=3.5,
                         color=colour, alpha=0.75, mew=0,
                         label=task if place == 0 else None)  # fmt: skip
                top.plot([place + offset - half, place + offset + half], [values.mean()] * 2,
                         color="black", lw=1.4)  # fmt: skip
        top.set_xticks(range(len(shown)), [methods[m] for m in shown], fontsize=7)
        top.set_xlim(-0.6, len(shown) - 0.4)
        top.legend(fontsize=6.5, loc="best")
    next(iter(panels.values())).set(ylabel="score, last checkpoint")
    replayed = [m for m in methods if len(plans) and (plans["method"] == m).any()]
    lowest, highest = 0.0, 1.0
    for place, method in enumerate(replayed):
        chosen = plans[plans["method"] == method]
        bottom.plot(chosen["imagined_gain"], chosen["replayed_gain"], MARKERS[place], ms=4,
                    color=PALETTE[place], alpha=0.8, mew=0,
                    label=methods[method].replace("\n", " "))  # fmt: skip
        both = chosen[["imagined_gain", "replayed_gain"]].to_numpy(float)
        lowest, highest = min(lowest, both.min()), max(highest, both.max())
    bottom.plot([lowest, highest], [lowest, highest], color=GREY, lw=0.8, ls="--")
    bottom.annotate("as promised", (highest, highest), fontsize=6.5, color=GREY, ha="right",
                    va="bottom")  # fmt: skip
    bottom.axhline(0, color=GREY, lw=0.5)
    bottom.set(xlabel="imagined gain over V (one mark per seed and task)",
               ylabel="the same plans replayed\nin the simulator")  # fmt: skip
    if replayed:
        bottom.legend(fontsize=6.5)
    return figure


def target_sweep(found: pd.DataFrame, reference: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Figure 4: score over the hand-set target, and its spread over seeds, against V(s).

    The row in the middle leaves out methods that never come near IPD (:data:`NEARBY`).

    Args:
        found: columns task, method, seed, level, score. reference: columns task, seed, score, the
            policy that is conditioned on V(s). names: method -> its name in the figure.
    """
    tasks = list(dict.fromkeys(found["task"]))
    figure, axes = plt.subplots(
        3, len(tasks), figsize=(max(COLUMN, 2.4 * len(tasks)), 5.2), squeeze=False, sharex=True,
        height_ratios=(1.4, 1.4, 1),
    )  # fmt: skip
    for column, task in enumerate(tasks):
        top, middle, bottom = axes[:, column]
        scores = reference.loc[reference["task"] == task, "score"].to_numpy(float)
        for index, method in enumerate([m for m in names if (found["method"] == m).any()], 1):
            chosen = found[(found["task"] == task) & (found["method"] == method)]
            if chosen.empty:
                continue
            by_level = chosen.groupby("level")["score"]
            far = len(scores) and (by_level.mean() - scores.mean()).abs().min() > NEARBY
            for panel in (top,) if far else (top, middle):
                panel.plot(chosen["level"], chosen["score"], MARKERS[index], ms=3, alpha=0.5,
                           mew=0, color=PALETTE[index])  # fmt: skip
                panel.plot(by_level.mean(), ls=LINES[index], color=PALETTE[index],
                           label=names[method])  # fmt: skip
            bottom.plot(by_level.std(), ls=LINES[index], color=PALETTE[index],
                        marker=MARKERS[index], ms=3)  # fmt: skip
        for panel in (top, middle) if len(scores) else ():
            panel.axhline(scores.mean(), color=VERMILION, lw=1.4, label="IPD: V(s), no target")
            for score in scores:
                panel.axhline(score, color=VERMILION, lw=0.4, alpha=0.6)
        if len(scores) > 1:
            bottom.axhline(scores.std(ddof=1), color=VERMILION, lw=1.4)
        top.set_title(task, fontsize=8)
        bottom.set_xlabel("target (0 = worst, 1 = best\nreturn in the data)")
    for panel, label in zip(
        axes[:, 0], ("score, last checkpoint", "the same,\nnear IPD alone", "sd over seeds"),
        strict=True,
    ):  # fmt: skip
        panel.set_ylabel(label)
    known = [axes[0, column].get_legend_handles_labels() for column in range(len(tasks))]
    named = {label: handle for pair in known for handle, label in zip(*pair, strict=True)}
    figure.legend(
        list(named.values()), list(named), loc="outside upper center", ncols=2, fontsize=6.5
    )
    return figure


def amount_curve(found: pd.DataFrame) -> Figure:
    """Figure 5: score over the amount of imagined data, in multiples of the default.

    Args:
        found: columns task, family, seed, amount, score.
    """
    figure, panels, _ = _family_panels(found)
    present = sorted(set(found["amount"]))
    place = {amount: index for index, amount in enumerate(present)}
    for name, ax in panels.items():
        tasks = found[found["family"] == name].groupby("task", sort=False)
        for index, (task, group) in enumerate(tasks):
            colour, marker, line = _look(index)
            x = group["amount"].map(place).to_numpy(float)
            ax.plot(x, group["score"], marker, ms=3.5, alpha=0.5, mew=0, color=colour)
            means = group.groupby("amount")["score"].mean()
            ax.plot([place[a] for a in means.index], means.to_numpy(), ls=line,
                    color=colour, label=str(task))  # fmt: skip
    names = {0.0: "none", 0.125: "1/8", 0.25: "1/4", 0.5: "1/2"}
    for ax in panels.values():
        ax.set_xticks(range(len(present)), [names.get(a, f"{a:g}") for a in present])
        ax.set(xlabel="imagined data, in multiples of the default")
        ax.legend(fontsize=6.5)
    next(iter(panels.values())).set(ylabel="score, last checkpoint")
    return figure


def alpha_curve(found: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Figure 9: score over alpha, the weight of Q in the loss, with and without imagined data.

    Args:
        found: columns task, method, seed, alpha, score. names: method -> its name in the figure.
    """
    tasks = list(dict.fromkeys(found["task"]))
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(max(COLUMN, 2.6 * len(tasks)), 2.7), squeeze=False
    )
    for ax, task in zip(axes[0], tasks, strict=True):
        here = found[found["task"] == task]
        present = sorted(set(here["alpha"]))
        for index, method in enumerate([m for m in names if (here["method"] == m).any()]):
            chosen = here[here["method"] == method]
            x = chosen["alpha"].map(present.index) + 0.08 * (2 * index - 1)
            ax.plot(x, chosen["score"], MARKERS[index], ms=3.5, alpha=0.55, mew=0,
                    color=PALETTE[index])  # fmt: skip
            means = chosen.groupby("alpha")["score"].mean()
            ax.plot([present.index(a) for a in means.index], means.to_numpy(), ls=LINES[index],
                    color=PALETTE[index], label=names[method])  # fmt: skip
        ax.set_xticks(range(len(present)), [f"{a:g}" for a in present])
        ax.set(xlabel="alpha (0 = no Q term)", title=task)
        ax.title.set_fontsize(8)
    axes[0, 0].set_ylabel("score, last checkpoint")
    axes[0, 0].legend(fontsize=6.5, loc="lower right")
    return figure


def uncertainty_panels(
    uncertainty: Array,
    error: Array,
    on_data: NDArray[np.bool_],
    path_uncertainty: Array,
    path_error: Array,
    standardized: Array,
    threshold: float,
) -> Figure:
    """Figure 6: U against the true error after one step and after five, calibration, the gate.

    Args:
        uncertainty, error, on_data: (B,) of single steps; errors in deviations of the data.
        path_uncertainty, path_error: (P,) largest U along five recorded steps and the error at
            their end, played open-loop in the model.
        standardized: (N, D) held-out (truth - mean) / predicted deviation.
    """
    from scipy.stats import norm

    figure, axes = plt.subplots(2, 2, figsize=(PAGE * 0.78, 4.6))
    for ax, doubt, wrong, title in (
        (axes[0, 0], uncertainty, error, "one step"),
        (axes[0, 1], path_uncertainty, path_error, "five steps, open loop"),
    ):
        doubt, wrong = np.maximum(doubt, 1e-6), np.maximum(wrong, 1e-6)
        if ax is axes[0, 0]:
            for chosen, name, colour, marker in (
                (on_data, "held-out data", BLUE, "o"), (~on_data, "off the data", ORANGE, "^"),
            ):  # fmt: skip
                ax.plot(doubt[chosen], wrong[chosen], marker, ms=2, mew=0, alpha=0.35,
                        color=colour, label=name, rasterized=True)  # fmt: skip
        else:
            ax.plot(doubt, wrong, "o", ms=2, mew=0, alpha=0.35, color=BLUE, rasterized=True,
                    label="held-out data")  # fmt: skip
        ax.axvline(threshold, color=VERMILION, ls="--", lw=1, label="threshold")
        ax.set(xscale="log", yscale="log", xlabel="U (nats)",
               ylabel="true error (data deviations)")  # fmt: skip
        correlation = float(spearman(doubt, wrong))
        ax.set_title(f"{title}: rank correlation {correlation:.2f}", fontsize=8)
    axes[0, 0].legend(fontsize=6.5, markerscale=2)
    ax = axes[1, 0]
    promised = np.linspace(0.02, 0.98, 49)
    bound = norm.ppf(0.5 + promised / 2)
    names = ("x", "y", "velocity x", "velocity y") if standardized.shape[1] == 4 else ()
    for index in range(min(standardized.shape[1], len(LINES))):
        inside = (np.abs(standardized[:, index, None]) <= bound).mean(0)
        ax.plot(promised, inside, ls=LINES[index], color=PALETTE[index + 1 if index < 8 else 0],
                label=names[index] if names else f"entry {index}")  # fmt: skip
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    ax.set(xlabel="promised share inside the interval", ylabel="observed share")
    ax.set_title("calibration on held-out data", fontsize=8)
    ax.legend(fontsize=6.5)
    ax = axes[1, 1]
    edges = np.geomspace(max(error.min(), 1e-4), error.max() * 1.001, 22)
    passed = uncertainty <= threshold
    ax.hist([error[passed], error[~passed]], edges, stacked=True, color=(SKY, VERMILION),
            hatch=("", "//"), edgecolor="white", linewidth=0.3,
            label=(f"passes ({passed.mean():.0%})",
                   f"rejected ({(~passed).mean():.0%})"))  # fmt: skip
    ax.set(xscale="log", xlabel="true one-step error (data deviations)", ylabel="steps")
    ax.set_title("what the gate rejects", fontsize=8)
    ax.set_ylim(0, 1.35 * ax.get_ylim()[1])  # room for the legend
    ax.legend(fontsize=6.5)
    return figure


def spearman(first: Array, second: Array) -> float:
    """Rank correlation."""
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def profiles(
    thresholds: Array, curves: Mapping[str, tuple[Array, Array, Array]], title: str = ""
) -> Figure:
    """Figure 7: share of runs above each score, with intervals.

    Args:
        curves: method -> (share, low, high), each (thresholds,).
    """
    figure, ax = plt.subplots(figsize=(COLUMN, 3.2))
    for index, (method, (share, low, high)) in enumerate(curves.items()):
        colour = VERMILION if method == "ipd" else PALETTE[1 + index % (len(PALETTE) - 1)]
        ax.plot(thresholds, share, ls=LINES[index % len(LINES)], color=colour, lw=1.3,
                label=method, drawstyle="steps-post")  # fmt: skip
        ax.fill_between(thresholds, low, high, color=colour, alpha=0.12, lw=0, step="post")
    ax.set(xlabel="score", ylabel="share of runs above it", ylim=(0, 1.02),
           xlim=(thresholds[0], thresholds[-1]))  # fmt: skip
    ax.set_title(title, fontsize=8)
    figure.legend(loc="outside upper center", fontsize=6.5, ncols=5)
    return figure


def costs(table: pd.DataFrame) -> Figure:
    """Figure 8: seconds and peak memory of every stage, one dot per run.

    Args:
        table: columns family, stage, seconds, process_mb (NaN where unknown), each stage of a
            seed once. Tasks of one family share a colour.
    """
    stages = list(dict.fromkeys(table["stage"]))
    has_memory = bool(table["process_mb"].notna().any())
    columns = 2 if has_memory else 1
    figure, axes = plt.subplots(
        1, columns, figsize=(PAGE if has_memory else COLUMN, 0.27 * len(stages) + 1.1),
        squeeze=False, sharey=True,
    )  # fmt: skip
    for ax, column, label in zip(
        axes[0], ("seconds", "process_mb"), ("wall seconds", "peak memory of the process (MB)"),
        strict=False,
    ):  # fmt: skip
        for index, (name, group) in enumerate(table.groupby("family", sort=False)):
            rows = group["stage"].map(stages.index).to_numpy(float)
            shift = 0.6 * ((index + 0.5) / table["family"].nunique() - 0.5)
            ax.plot(group[column], rows + shift, MARKERS[index], ms=3.5, alpha=0.5, mew=0,
                    color=PALETTE[index], label=str(name))  # fmt: skip
        ax.set(xlabel=label, xscale="log" if column == "seconds" else "linear")
    axes[0, 0].set_yticks(range(len(stages)), stages)
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(fontsize=6.5, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
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
