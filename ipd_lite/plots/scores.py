"""Scores, drawn with seaborn: every seed is a mark, every mean has its interval.

Sizes are those of print: one column (3.5 inches) or a page's two, letters of 6.5 points and more.
`errorbar` is seaborn's: ("ci", 95), or a function from the seeds' scores to both ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ipd_lite.plots.style import (
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    LINES,
    MARKERS,
    ORANGE,
    PAGE,
    PALETTE,
    PINK,
    SKY,
    VERMILION,
    Array,
    method_name,
    task_name,
)

ErrorBar = tuple[str, float] | Callable[[Any], tuple[float, float]]

USUAL: ErrorBar = ("ci", 95)

NEARBY = 8.0
"""Points of score within which a method counts as near the best one, or near IPD."""


STAGE_NAMES = {
    "values": "values (3.1)", "world-model": "world model (3.2)",
    "imagination": "imagination (3.3)", "policy": "transformer (3.4)",
    "cloning": "cloning", "td3bc": "TD3+BC", "cql": "CQL",
    "evaluation": "evaluation",
}  # fmt: skip
"""The stages of figure 8: the paper's in its order, then the rivals' own."""


def _look(method: str) -> tuple[str, str]:
    """Colour and marker of a method: IPD, its ablations, everything else."""
    if method == "ipd":
        return VERMILION, "D"
    return (ORANGE, "s") if method.startswith("ipd") else (BLUE, "o")


def _by_method(ax: Axes, rows: pd.DataFrame, methods: Sequence[str], errorbar: ErrorBar) -> None:
    """One row per method: seeds as marks, the mean as a bar, its interval as a line."""
    import seaborn as sns  # two seconds to import, and only scores need it

    for method in methods:
        colour, marker = _look(method)
        sns.stripplot(
            rows[rows["method"] == method], x="score", y="method", order=methods, color=colour,
            marker=marker, size=4, alpha=0.6, jitter=False, ax=ax,
        )  # fmt: skip
    sns.pointplot(
        rows, x="score", y="method", order=methods, errorbar=errorbar, seed=0, color="black",
        linestyle="none", marker="|", markersize=9, markeredgewidth=1.6, err_kws={"linewidth": 1.1},
        ax=ax,
    )  # fmt: skip
    ax.set_yticks(range(len(methods)), [method_name(method) for method in methods])
    ax.set(ylim=(len(methods) - 0.4, -0.6), ylabel="")
    ax.grid(axis="y", color="0.92", lw=0.6)
    ax.set_axisbelow(True)


def score_chart(
    scores: pd.DataFrame, methods: Sequence[str], title: str, errorbar: ErrorBar = USUAL
) -> Figure:
    """Which methods are good on this task? Where some lie far below, the others again, enlarged.

    Args:
        scores: columns method, seed, score of one task and one kind of checkpoint.
    """
    rows = scores[scores["method"].isin(methods)]
    means = rows.groupby("method")["score"].mean()
    near = rows.loc[rows["method"].map(means) > means.max() - NEARBY, "score"]
    several = (means > means.max() - NEARBY).sum() > 2
    enlarged = several and np.ptp(rows["score"]) > 3 * np.ptp(near)
    figure, axes = plt.subplots(
        1, 1 + enlarged, figsize=((0.8 if enlarged else 0.6) * PAGE, 0.21 * len(methods) + 0.9),
        sharey=True, squeeze=False,
    )  # fmt: skip
    for ax in axes[0]:
        _by_method(ax, rows, methods, errorbar)
        ax.set(xlabel="normalized score")
    if enlarged:
        margin = 0.06 * np.ptp(near)
        axes[0, 1].set(xlim=(near.min() - margin, near.max() + margin))
        axes[0, 1].set_xlabel("the same, enlarged")
    for place, method in enumerate(methods):
        if method in means:
            axes[0, -1].annotate(
                f"{means[method]:.1f}", (1.02, place), xycoords=("axes fraction", "data"),
                va="center", fontsize=8,
            )  # fmt: skip
    figure.suptitle(title, fontsize=9)
    return figure


def ablation(
    scores: pd.DataFrame, plans: pd.DataFrame, methods: Sequence[str], errorbar: ErrorBar = USUAL
) -> Figure:
    """Figure 3: which imagined data helps, and do its plans keep what they promise?

    Args:
        scores: columns task, method, seed, score. plans: columns task, method, seed,
            imagined_gain, replayed_gain; empty or of some tasks only.
    """
    tasks = list(dict.fromkeys(scores["task"]))
    height = 0.17 * len(methods) + 0.75
    figure, axes = plt.subplots(
        2 if len(plans) else 1, len(tasks), sharey=True, squeeze=False,
        figsize=(max(COLUMN, PAGE * max(1.0, len(tasks) / 4)), height * (2 if len(plans) else 1)),
    )  # fmt: skip
    for ax, task in zip(axes[0], tasks, strict=True):
        _by_method(ax, scores[scores["task"] == task], methods, errorbar)
        ax.set(xlabel="score")
        ax.set_title(task_name(task), fontsize=8)
    for ax, task in zip(axes[1] if len(plans) else (), tasks, strict=False):
        rows = plans[(plans["task"] == task) & plans["method"].isin(methods)]
        _promises(ax, rows, methods)
        ax.set_visible(len(rows) > 0)
    figure.align_xlabels()
    if len(plans):
        handles, labels = axes[1, tasks.index(plans["task"].iloc[0])].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7)
    return figure


def _promises(ax: Axes, plans: pd.DataFrame, methods: Sequence[str]) -> None:
    """Gain of imagined plans: hollow as the model promises it, full as the simulator gives it."""
    place = plans["method"].map(list(methods).index).to_numpy(float)
    for column, shift, face, label in (
        ("imagined_gain", -0.15, "none", "promised by the model"),
        ("replayed_gain", 0.15, None, "true, in the simulator"),
    ):  # fmt: skip
        ax.plot(plans[column], place + shift, "o", ms=3.5, mfc=face or GREEN, mec=GREEN, mew=0.8,
                ls="none", label=label)  # fmt: skip
    ax.hlines(place, plans["imagined_gain"], plans["replayed_gain"], color=GREY, lw=0.5)
    ax.axvline(0, color=GREY, lw=0.6)
    ax.grid(axis="y", color="0.92", lw=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel("gain over V (return)")


def _over(
    ax: Axes, groups: Mapping[str, pd.DataFrame], x: str, levels: Sequence[float],
    errorbar: ErrorBar,
) -> None:  # fmt: skip
    """Scores over the levels of one setting, side by side at equal distances whatever their values:
    a colour, a marker and a line per group."""
    import seaborn as sns

    for index, (name, rows) in enumerate(groups.items()):
        shift = 0.1 * (index - (len(groups) - 1) / 2)
        shown = rows.assign(place=rows[x].map(list(levels).index) + shift)
        colour = VERMILION if name == method_name("ipd") else PALETTE[index]
        marker, line = MARKERS[index], LINES[index]
        sns.scatterplot(
            shown, x="place", y="score", color=colour, marker=marker, s=14, alpha=0.4, lw=0,
            legend=False, ax=ax,
        )  # fmt: skip
        sns.lineplot(
            shown, x="place", y="score", color=colour, marker=marker, markersize=5, ls=line,
            lw=1.4, errorbar=errorbar, seed=0, err_style="bars", err_kws={"elinewidth": 1},
            label=name, legend=False, ax=ax,
        )  # fmt: skip
    ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    ax.set(xlabel="", ylabel="")


def _task_panels(
    found: pd.DataFrame, x: str, hue: bool, errorbar: ErrorBar, xlabel: str
) -> tuple[Figure, dict[str, Axes]]:
    """A panel per task with an axis of its own, a group per method if `hue` asks for it."""
    tasks = list(dict.fromkeys(found["task"]))
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(COLUMN if columns == 1 else PAGE, 2.4 * lines), squeeze=False
    )
    for ax in axes.flat[len(tasks) :]:
        ax.set_visible(False)
    methods = dict.fromkeys(found["method"]) if hue else {}
    for ax, task in zip(axes.flat, tasks, strict=False):
        rows = found[found["task"] == task]
        groups = {method_name(m): rows[rows["method"] == m] for m in methods}
        groups = groups or {method_name("ipd"): rows}
        _over(ax, groups, x, sorted(set(rows[x])), errorbar)
        ax.set_title(task_name(task), fontsize=8)
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel("normalized score", fontsize=9)
    return figure, dict(zip(tasks, axes.flat, strict=False))


def _shared_legend(figure: Figure) -> None:
    """Whatever the panels name, once, above them."""
    pairs = [ax.get_legend_handles_labels() for ax in figure.axes]
    named = {label: handle for pair in pairs for handle, label in zip(*pair, strict=True)}
    figure.legend(
        list(named.values()), list(named), loc="outside upper center", fontsize=7,
        ncols=4 if len(named) <= 4 else 3,
    )  # fmt: skip


def target_sweep(
    found: pd.DataFrame, reference: pd.DataFrame, errorbar: ErrorBar = USUAL
) -> Figure:
    """Figure 4: does the score depend on the hand-set target, which V(s) makes needless?

    Methods that never come near IPD (:data:`NEARBY`) are named with their scores instead.

    Args:
        found: columns task, method, seed, level, score. reference: columns task, seed, score, the
            policy that is conditioned on V(s).
    """
    level = reference.groupby("task")["score"].mean()
    means = found.groupby(["task", "method", "level"])["score"].mean()
    gap = (
        level.reindex(found["task"]).to_numpy()
        - found.join(means.groupby(["task", "method"]).max().rename("best"), on=["task", "method"])[
            "best"
        ].to_numpy()
    )
    figure, panels = _task_panels(
        found[~(gap > NEARBY)], "level", True, errorbar,
        "hand-set target (0 = worst, 1 = best return in the data)",
    )  # fmt: skip
    for task, ax in panels.items():
        values = reference.loc[reference["task"] == task, "score"].to_numpy(float)
        if len(values):
            ax.axhline(values.mean(), color="black", lw=1.2, label="IPD with V(s), no target")
            ax.axhspan(
                values.min(), values.max(), color="0.9", lw=0, zorder=0, label="range of its seeds"
            )
        far = means[task][list(set(found[(gap > NEARBY)].query("task == @task")["method"]))]
        notes = [
            f"{method_name(str(method))}: {of.min():.0f} to {of.max():.0f}"
            for method, of in far.groupby("method")
        ]
        ax.set_title("\n".join([task_name(task), *notes]), fontsize=8)
    _shared_legend(figure)
    return figure


def amount_curve(found: pd.DataFrame, errorbar: ErrorBar = USUAL) -> Figure:
    """Figure 5: is more imagined data better? Score over its amount, 1 = the configured one.

    Args:
        found: columns task, seed, amount, score.
    """
    label = "imagined data, in multiples of IPD's (0 = none)"
    figure, panels = _task_panels(found, "amount", False, errorbar, label)
    names = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2"}
    for task, ax in panels.items():
        levels = sorted(set(found.loc[found["task"] == task, "amount"]))
        ax.set_xticks(range(len(levels)), [names.get(level, f"{level:g}") for level in levels])
    return figure


def alpha_curve(found: pd.DataFrame, errorbar: ErrorBar = USUAL) -> Figure:
    """Figure 9: how much Q term, alpha, does the policy need, with and without imagined data?

    Args:
        found: columns task, method, seed, alpha, score.
    """
    label = "alpha, the weight of Q in the loss (0 = imitation alone)"
    figure, _ = _task_panels(found, "alpha", True, errorbar, label)
    _shared_legend(figure)
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

    Args:
        frame: columns `x` and score, one row per seed.
        axes: passed to `Axes.set` (limits).
    """
    figure, ax = plt.subplots(figsize=(5.2, 3.3))
    _over(ax, {"mean over seeds": frame}, x, sorted(set(frame[x])), USUAL)
    for (name, level), colour, line in zip(
        reference.items(), (VERMILION, GREEN, GREY), ("--", "-.", ":"), strict=False
    ):
        ax.axhline(level, color=colour, ls=line, label=name)
    ax.set(xlabel=xlabel, ylabel="normalized score", title=title, **axes)
    ax.legend(fontsize=7)
    return figure


def profiles(panels: Mapping[str, tuple[Array, Mapping[str, tuple[Array, ...]]]]) -> Figure:
    """Figure 7: which method has more runs above any score one may ask for?

    Args:
        panels: title -> (thresholds, method -> (share, low, high)), all arrays (thresholds,).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(PAGE, 2.9), sharey=True, squeeze=False)
    for ax, (title, (thresholds, curves)) in zip(axes[0], panels.items(), strict=True):
        for index, (method, (share, low, high)) in enumerate(curves.items()):
            colour = VERMILION if method == "ipd" else (BLUE, GREEN, PINK, ORANGE, GREY)[index % 5]
            ax.plot(thresholds, share, ls="-" if method == "ipd" else LINES[1 + index % 6],
                    lw=2 if method == "ipd" else 1.1, color=colour,
                    label=method_name(method))  # fmt: skip
            if method == "ipd":
                ax.fill_between(thresholds, low, high, color=colour, alpha=0.15, lw=0)
        ax.set(xlabel="normalized score", ylim=(0, 1.02), xlim=(thresholds[0], thresholds[-1]))
        ax.set_title(title, fontsize=8)
    axes[0, 0].set_ylabel("share of runs above it")
    _shared_legend(figure)
    return figure


def costs(table: pd.DataFrame) -> Figure:
    """Figure 8: what does each stage cost? Median and range over runs.

    Args:
        table: columns family, stage, seconds, process_mb (NaN where unknown), each stage of a
            seed once.
    """
    import seaborn as sns

    stages = [stage for stage in STAGE_NAMES if (table["stage"] == stage).any()]
    families = list(dict.fromkeys(table["family"]))
    shown = {"seconds": "wall seconds", "process_mb": "peak memory of the process (MB)"}
    shown = {name: label for name, label in shown.items() if table[name].notna().any()}
    figure, axes = plt.subplots(
        1, len(shown), figsize=(PAGE if len(shown) == 2 else COLUMN, 0.3 * len(stages) + 0.9),
        squeeze=False, sharey=True,
    )  # fmt: skip
    for ax, (column, label) in zip(axes[0], shown.items(), strict=True):
        sns.pointplot(
            table, x=column, y="stage", order=stages, hue="family", hue_order=families,
            palette=list(PALETTE[: len(families)]), markers=list(MARKERS[: len(families)]),
            linestyle="none", estimator="median", errorbar=("pi", 100), markersize=3,
            dodge=0.5 if len(families) > 1 else False,
            err_kws={"linewidth": 1}, log_scale=column == "seconds", legend=ax is axes[0, 0], ax=ax,
        )  # fmt: skip
        ax.set(xlabel=label, ylabel="")
        ax.grid(axis="x", color="0.92", lw=0.6)
    axes[0, 0].set_yticks(range(len(stages)), [STAGE_NAMES[stage] for stage in stages])
    axes[0, 0].xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes[0, 0].legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    axes[0, -1].set_title("median and range over runs", fontsize=8)
    return figure


def return_histograms(table: pd.DataFrame, columns: int = 4) -> Figure:
    """How good are the recordings? One panel per task: episodes by return, the mean as a line.

    Args:
        table: rows (task, source, transitions, mean, left, right, episodes), bin after bin.
    """
    groups = list(table.groupby("task", sort=False))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.4 * columns, 1.7 * rows), squeeze=False)
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
        ax.set_title(
            f"{task_name(str(name))}\n{first['source']}, {first['transitions']:,} steps", fontsize=8
        )
    figure.supxlabel("undiscounted return of a recorded episode (dashed: mean)")
    figure.supylabel("episodes (logarithmic)")
    return figure
