"""Scores, drawn with seaborn: every seed is a mark, every mean has its interval.

Sizes are those of print: one column (3.5 inches) or a page's two, letters of 6.5 points and more.
`errorbar` is seaborn's: ("ci", 95), or a function from the seeds' scores to both ends. Seaborn
takes seconds to import, and only scores need it: it comes when one is drawn.
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
    LOOKS,
    MARKERS,
    ORANGE,
    PAGE,
    PALETTE,
    SKY,
    VERMILION,
    Array,
    Look,
    method_name,
    task_name,
)

ErrorBar = tuple[str, float] | Callable[[Any], tuple[float, float]]
USUAL: ErrorBar = ("ci", 95)
NEARBY = 8.0
"""Points of score within which a method counts as near the best one, or near IPD."""
STAGE_NAMES = {
    "values": "values (3.1)",
    "world-model": "world model (3.2)",
    "imagination": "imagination (3.3)",
    "policy": "transformer (3.4)",
    "cloning": "cloning",
    "td3bc": "TD3+BC",
    "cql": "CQL",
    "rebrac": "ReBRAC",
    "evaluation": "evaluation",
}
"""The stages of figure 8: the paper's in its order, then the rivals' own."""


def _look(method: str) -> tuple[str, str]:
    """Colour and marker of a method: IPD, its ablations, everything else."""
    if method == "ipd":
        return VERMILION, "D"
    return (ORANGE, "s") if method.startswith("ipd") else (BLUE, "o")


def _by_method(ax: Axes, rows: pd.DataFrame, methods: Sequence[str], errorbar: ErrorBar) -> None:
    """One row per method: seeds as marks, the mean as a bar, its interval as a line."""
    import seaborn as sns

    shared = {"x": "score", "y": "method", "order": methods, "ax": ax}
    looks = {_look(method): [m for m in methods if _look(m) == _look(method)] for method in methods}
    for (colour, marker), alike in looks.items():  # seaborn takes its time for every call
        marks = {"color": colour, "marker": marker, "size": 4, "alpha": 0.6, "jitter": False}
        sns.stripplot(rows[rows["method"].isin(alike)], **shared, **marks)
    bar = {"marker": "|", "markersize": 9, "markeredgewidth": 1.6, "linestyle": "none"}
    interval = {"errorbar": errorbar, "seed": 0, "err_kws": {"linewidth": 1.1}}
    sns.pointplot(rows, color="black", **shared, **bar, **interval)
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
    best = means[means > means.max() - NEARBY]
    near = rows.loc[rows["method"].isin(best.index), "score"]
    enlarged = len(best) > 2 and np.ptp(rows["score"]) > 3 * np.ptp(near)
    size = ((0.8 if enlarged else 0.6) * PAGE, 0.21 * len(methods) + 0.9)
    figure, axes = plt.subplots(1, 1 + enlarged, figsize=size, sharey=True, squeeze=False)
    for ax, label in zip(axes[0], ("normalized score", "the same, enlarged"), strict=False):
        _by_method(ax, rows, methods, errorbar)
        ax.set_xlabel(label)
    if enlarged:
        margin = 0.06 * np.ptp(near)
        axes[0, 1].set_xlim(near.min() - margin, near.max() + margin)
    right: Any = ("axes fraction", "data")
    for place, method in enumerate(methods):
        if method in means:
            beside: Look = {"xycoords": right, "va": "center", "fontsize": 8}
            axes[0, -1].annotate(f"{means[method]:.1f}", (1.02, place), **beside)
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
    rows = 2 if len(plans) else 1
    size = (PAGE * max(1.0, len(tasks) / 4), rows * (0.17 * len(methods) + 0.75))
    figure, axes = plt.subplots(rows, len(tasks), figsize=size, sharey=True, squeeze=False)
    for ax, task in zip(axes[0], tasks, strict=True):
        _by_method(ax, scores[scores["task"] == task], methods, errorbar)
        ax.set_xlabel("score")
        ax.set_title(task_name(task), fontsize=8)
    if len(plans):
        for ax, task in zip(axes[1], tasks, strict=True):
            _promises(ax, plans[plans["task"] == task], methods)
        _shared_legend(figure, "outside lower center")
    figure.align_xlabels()
    return figure


def _promises(ax: Axes, plans: pd.DataFrame, methods: Sequence[str]) -> None:
    """Gain of imagined plans: hollow as the model promises it, full as the simulator gives it."""
    plans = plans[plans["method"].isin(methods)]
    if plans.empty:
        ax.set_visible(False)
        return
    place = plans["method"].map(list(methods).index).to_numpy(float)
    mark: Look = {"ls": "none", "marker": "o", "ms": 3.5, "mec": GREEN, "mew": 0.8}
    promised, true = plans["imagined_gain"], plans["replayed_gain"]
    ax.plot(promised, place - 0.15, mfc="none", label="promised by the model", **mark)
    ax.plot(true, place + 0.15, mfc=GREEN, label="true, in the simulator", **mark)
    ax.hlines(place, promised, true, color=GREY, lw=0.5)
    ax.axvline(0, color=GREY, lw=0.6)
    ax.grid(axis="y", color="0.92", lw=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel("gain over V (return)")


def _shared_legend(figure: Figure, place: Any = "outside upper center") -> None:
    """Whatever the panels name, once, outside them."""
    pairs = [ax.get_legend_handles_labels() for ax in figure.axes]
    named = {label: handle for pair in pairs for handle, label in zip(*pair, strict=True)}
    columns = 4 if len(named) <= 4 else 3
    figure.legend(list(named.values()), list(named), loc=place, fontsize=7, ncols=columns)


def _over(ax: Axes, groups: Mapping[str, pd.DataFrame], x: str, errorbar: ErrorBar) -> None:
    """Scores over the levels of one setting, side by side at equal distances whatever their values:
    a colour, a marker and a line per group."""
    import seaborn as sns

    levels = sorted({level for rows in groups.values() for level in rows[x]})
    shared = {"x": "place", "y": "score", "ax": ax, "legend": False}
    bars = {"errorbar": errorbar, "seed": 0, "err_style": "bars", "err_kws": {"elinewidth": 1}}
    for index, (name, rows) in enumerate(groups.items()):
        if rows.empty:
            continue
        shift = 0.1 * (index - (len(groups) - 1) / 2)
        shown = rows.assign(place=rows[x].map(levels.index) + shift)
        colour, marker, line = LOOKS[index]
        look = {"color": VERMILION if name == method_name("ipd") else colour, "marker": marker}
        sns.scatterplot(shown, s=16, alpha=0.6, lw=0, **look, **shared)
        sns.lineplot(shown, label=name, ls=line, lw=1.4, markersize=5, **look, **bars, **shared)
    ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    ax.set(xlabel="", ylabel="")


def _task_panels(
    found: pd.DataFrame, x: str, methods: Sequence[str], errorbar: ErrorBar, label: str
) -> tuple[Figure, dict[str, Axes]]:
    """A panel per task with an axis of its own, in it a group per method (IPD if none is named)."""
    tasks = list(dict.fromkeys(found["task"]))
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    size = (COLUMN if columns == 1 else PAGE, 2.4 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(tasks) :]:
        ax.set_visible(False)
    for ax, task in zip(axes.flat, tasks, strict=False):
        rows = found[found["task"] == task]
        groups = {method_name(method): rows[rows["method"] == method] for method in methods}
        _over(ax, groups or {method_name("ipd"): rows}, x, errorbar)
        ax.set_title(task_name(task), fontsize=8)
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("normalized score", fontsize=9)
    return figure, dict(zip(tasks, axes.flat, strict=False))


def target_sweep(
    found: pd.DataFrame, reference: pd.DataFrame, errorbar: ErrorBar = USUAL
) -> Figure:
    """Figure 4: does the score depend on the hand-set target, which V(s) makes needless?

    Methods that never come near IPD (:data:`NEARBY`) are named with their scores instead.

    Args:
        found: columns task, method, seed, level, score. reference: columns task, seed, score, the
            policy that is conditioned on V(s).
    """
    means = found.groupby(["task", "method", "level"])["score"].mean()
    levels = reference.groupby("task")["score"].mean()
    best = means.groupby(["task", "method"]).max().reset_index()
    best = best[best["score"] < best["task"].map(levels) - NEARBY]
    far = set(zip(best["task"], best["method"], strict=True))
    near = [pair not in far for pair in zip(found["task"], found["method"], strict=True)]
    label = "hand-set target (0 = worst, 1 = best return in the data)"
    methods = list(dict.fromkeys(found["method"]))
    figure, panels = _task_panels(found[near], "level", methods, errorbar, label)
    for task, ax in panels.items():
        values = reference.loc[reference["task"] == task, "score"].to_numpy(float)
        if len(values):
            ax.axhline(values.mean(), color="black", lw=1.2, label="IPD with V(s), no target")
            band: Look = {"color": "0.9", "lw": 0, "zorder": 0, "label": "range of its seeds"}
            ax.axhspan(values.min(), values.max(), **band)
        title = [task_name(task)]
        for method in (method for method in methods if (task, method) in far):
            low, high = means[task, method].min(), means[task, method].max()
            title.append(f"{method_name(method)}: {low:.0f} to {high:.0f}")
        ax.set_title("\n".join(title), fontsize=8)
    _shared_legend(figure)
    return figure


def amount_curve(found: pd.DataFrame, errorbar: ErrorBar = USUAL) -> Figure:
    """Figure 5: is more imagined data better? Score over its amount, 1 = the configured one.

    Args:
        found: columns task, seed, amount, score.
    """
    label = "imagined data, in multiples of IPD's (0 = none)"
    figure, panels = _task_panels(found, "amount", (), errorbar, label)
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
    methods = list(dict.fromkeys(found["method"]))
    figure, _ = _task_panels(found, "alpha", methods, errorbar, label)
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
    """Scores over one setting: every seed a dot, their mean a line with its interval, references as
    level lines.

    Args:
        frame: columns `x` and score, one row per seed.
        axes: passed to `Axes.set` (limits).
    """
    figure, ax = plt.subplots(figsize=(5.2, 3.3))
    _over(ax, {"mean over seeds, 95 % interval": frame}, x, USUAL)
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
        panels: title -> (thresholds, method -> (share, low, high)), all arrays (thresholds,); the
            interval is drawn for IPD alone.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(PAGE, 2.9), sharey=True, squeeze=False)
    colours = [colour for colour in PALETTE if colour != VERMILION]
    every = dict.fromkeys(m for _, curves in panels.values() for m in curves if m != "ipd")
    looks = dict(zip(every, zip(colours, LINES[1:], strict=False), strict=False))
    for ax, (title, (thresholds, curves)) in zip(axes[0], panels.items(), strict=True):
        for method in (method for method in curves if method in looks):
            colour, line = looks[method]  # a method looks alike in every panel
            named: Look = {"label": method_name(method), "color": colour, "ls": line}
            ax.plot(thresholds, curves[method][0], lw=1.1, **named)
        if "ipd" in curves:
            share, low, high = curves["ipd"]
            ax.plot(thresholds, share, color=VERMILION, lw=2, label=method_name("ipd"))
            ax.fill_between(thresholds, low, high, color=VERMILION, alpha=0.15, lw=0)
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

    ran = dict.fromkeys(table["stage"])
    stages = [stage for stage in dict.fromkeys([*STAGE_NAMES, *ran]) if stage in ran]
    families = list(dict.fromkeys(table["family"]))
    shown = {"seconds": "wall seconds", "process_mb": "peak memory of the process (MB)"}
    shown = {name: label for name, label in shown.items() if table[name].notna().any()}
    size = (PAGE if len(shown) == 2 else COLUMN, 0.3 * len(stages) + 0.9)
    figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, sharey=True)
    count = len(families)
    order = {"y": "stage", "order": stages, "hue": "family", "hue_order": families}
    look = {"palette": list(PALETTE[:count]), "markers": list(MARKERS[:count]), "markersize": 3}
    median = {"estimator": "median", "errorbar": ("pi", 100), "err_kws": {"linewidth": 1}}
    apart = {"dodge": 0.5 if count > 1 else False, "linestyle": "none"}
    for ax, (column, label) in zip(axes[0], shown.items(), strict=True):
        scale = {"log_scale": column == "seconds", "legend": ax is axes[0, 0]}
        sns.pointplot(table, x=column, **order, **look, **median, **apart, **scale, ax=ax)
        ax.set(xlabel=label, ylabel="")
        ax.grid(axis="x", color="0.92", lw=0.6)
    axes[0, 0].set_yticks(range(len(stages)), [STAGE_NAMES.get(stage, stage) for stage in stages])
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
    look: Look = {"align": "edge", "color": SKY, "edgecolor": BLUE, "linewidth": 0.3}
    for ax, (name, group) in zip(axes.flat, groups, strict=False):
        first = group.iloc[0]
        ax.bar(group["left"], group["episodes"], width=group["right"] - group["left"], **look)
        ax.axvline(first["mean"], color=VERMILION, ls="--", lw=1.2)
        ax.set(yscale="log", ylim=(0.7, None))  # a single good episode stays visible
        about = f"{first['source']}, {first['transitions']:,} steps"
        ax.set_title(f"{task_name(str(name))}\n{about}", fontsize=8)
    figure.supxlabel("undiscounted return of a recorded episode (dashed: mean)")
    figure.supylabel("episodes (logarithmic)")
    return figure
