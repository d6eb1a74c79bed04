"""Result files as tables of scores: ordered, summarized, and cut for the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ipd_lite.report.statistics import (
    Array,
    Interval,
    bootstrap_interval,
    improvement_interval,
    paired_interval,
    pooled_interquartile_mean,
    pooled_mean,
    stratified_interval,
)
from ipd_lite.study.methods import METHODS
from ipd_lite.study.names import label_of

Groups = Mapping[str, tuple[list[str], pd.DataFrame]]
"""Name of a group of tasks -> its tasks and their aggregate."""

TABLE_METHODS = ("behaviour", "bc", "bc-10", "td3bc", "cql", "iql", "dt", "qt", "ipd")
"""The columns of Table 1; every other method is in the per-task tables."""

SCALED = [name for name, method in METHODS.items() if method.amount != 1.0]
"""IPD with other amounts of imagined data: figure 5 has them, summaries leave them out."""

FAMILIES = {
    **dict.fromkeys(("pointmaze",), "mazes"),
    **dict.fromkeys(("hopper", "halfcheetah", "walker2d"), "locomotion"),
    **dict.fromkeys(("pen", "door", "hammer", "relocate"), "adroit"),
}


def family(task: str) -> str:
    """The group of tasks that is averaged over: "mazes", "locomotion", or the first word."""
    first = task.split("-")[0]
    return FAMILIES.get(first, first)


def labelled(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with methods called "method@variant"."""
    labels = [label_of(m, v) for m, v in zip(scores["method"], scores["variant"], strict=True)]
    return scores.assign(method=labels)


def last_of(scores: pd.DataFrame) -> pd.DataFrame:
    """The last checkpoints of every method as it is configured (no variants)."""
    return scores[(scores["variant"] == "") & (scores["checkpoint"] == "last")]


def by_method(scores: pd.DataFrame, checkpoint: str = "last") -> dict[str, dict[str, Array]]:
    """{method: {task: scores (seeds,)}} of one kind of checkpoint."""
    found: dict[str, dict[str, Array]] = {}
    chosen = scores[scores["checkpoint"] == checkpoint]
    for (method, task), group in chosen.groupby(["method", "task"], sort=False):
        values = group["score"].to_numpy(float)
        found.setdefault(str(method), {})[str(task)] = _runs(str(method), values)
    return found


def _runs(method: str, values: Array) -> Array:
    """The scores that are runs of their own. What is recorded in one dataset is the same for every
    seed: one number, of which repetitions say nothing."""
    return values[:1] if method == "behaviour" and np.ptp(values) == 0 else values


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per task and method, variants as methods of their own.

    Columns: task, method, seeds, success, and intervals over seeds: last, last_iqm, best (mean and
    interquartile mean of the checkpoints' scores), ipd_minus (the paired difference of IPD to the
    method, last, same seeds), ipd_better (the probability that a run of IPD beats one of it).
    """
    rows = []
    for (task, method), group in labelled(scores).groupby(["task", "method"], sort=False):
        here = scores[(scores["task"] == task) & (scores["method"] == "ipd")]
        rows.append({"task": task, "method": method, **_row(group, last_of(here))})
    return pd.DataFrame(rows)


def _row(group: pd.DataFrame, ipd: pd.DataFrame) -> dict[str, Any]:
    last = group[group["checkpoint"] == "last"].set_index("seed")
    best = group.loc[group["checkpoint"] == "best", "score"].to_numpy(float)
    method = str(group["method"].iloc[0])
    values, best = _runs(method, last["score"].to_numpy(float)), _runs(method, best)
    row = {
        "seeds": len(last),
        "success": last["success"].mean(),
        "last": bootstrap_interval(values),
        "last_iqm": stratified_interval([values], pooled_interquartile_mean),
        "best": bootstrap_interval(best),
        "ipd_minus": Interval(),
        "ipd_better": Interval(),
    }
    other = ipd.set_index("seed")["score"]
    shared = other.index.intersection(last.index)
    if set(group["method"]) != {"ipd"} and len(shared):
        row["ipd_minus"] = paired_interval(
            other[shared].to_numpy(), last.loc[shared, "score"].to_numpy()
        )
        row["ipd_better"] = improvement_interval({"": other.to_numpy(float)}, {"": values})
    return row


def aggregate(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per method over all tasks of `scores`.

    Columns: method, tasks, of (all tasks), runs, and intervals: last, last_iqm, best, best_iqm,
    ipd_better. A method that lacks a task has no numbers.
    """
    scores = labelled(scores)
    tasks = list(dict.fromkeys(scores["task"]))
    last, best = by_method(scores), by_method(scores, "best")
    rows = []
    for method in [m for m in METHODS if m in last] + [m for m in last if m not in METHODS]:
        found = dict.fromkeys(("last", "last_iqm", "best", "best_iqm", "ipd_better"), Interval())
        if len(last[method]) == len(tasks):
            for name, by_task in (("last", last[method]), ("best", best[method])):
                strata = [by_task[task] for task in tasks]
                found[name] = stratified_interval(strata, pooled_mean)
                found[f"{name}_iqm"] = stratified_interval(strata, pooled_interquartile_mean)
            if method != "ipd" and len(last.get("ipd", {})) == len(tasks):
                found["ipd_better"] = improvement_interval(last["ipd"], last[method])
        runs = sum(len(values) for values in last[method].values())
        counts = {"method": method, "tasks": len(last[method]), "of": len(tasks), "runs": runs}
        rows.append(counts | found)
    return pd.DataFrame(rows)


def aggregates(scores: pd.DataFrame) -> dict[str, tuple[list[str], pd.DataFrame]]:
    """:func:`aggregate` of every family with several tasks and of all tasks: name -> (tasks, rows).

    Without variants, and without the amounts of imagined data, which have a figure of their own.
    """
    plain = scores[(scores["variant"] == "") & ~scores["method"].isin(SCALED)]
    groups: dict[str, list[str]] = {}
    for task in dict.fromkeys(plain["task"]):
        groups.setdefault(family(task), []).append(task)
    everything = [task for members in groups.values() for task in members]
    whole = {"all tasks": everything} if len(groups) > 1 else {}
    groups = {name: members for name, members in groups.items() if len(members) > 1} | whole
    return {
        name: (members, aggregate(plain[plain["task"].isin(members)]))
        for name, members in groups.items()
    }


def comparable(found: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """The rows of seeds that have run with every combination of `settings` their task has.

    A mean over other seeds than its neighbour's would show luck as a trend.
    """
    parts = []
    for _, rows in found.groupby("task", sort=False):
        wanted = len(rows[list(settings)].drop_duplicates())
        counts = rows.groupby("seed")[list(settings)].apply(lambda s: len(s.drop_duplicates()))
        parts.append(rows[rows["seed"].isin(counts.index[counts == wanted])])
    return pd.concat(parts) if parts else found


def amounts(scores: pd.DataFrame) -> pd.DataFrame:
    """Last scores of IPD over the amount of imagined data: columns task, seed, amount, score."""
    amount = {name: METHODS[name].amount for name in SCALED} | {"ipd": 1.0, "ipd-noaug": 0.0}
    last = last_of(scores)
    chosen = last.assign(amount=last["method"].map(amount))
    return chosen.loc[chosen["amount"].notna(), ["task", "seed", "amount", "score"]]


def targets(scores: pd.DataFrame) -> pd.DataFrame:
    """Last scores of hand-set targets: columns task, method, seed, level, score."""
    return _over_variants(scores, "target_level").rename(columns={"target_level": "level"})


def alphas(scores: pd.DataFrame) -> pd.DataFrame:
    """Last scores over the weight of Q: columns task, method, seed, alpha, score."""
    return _over_variants(scores, "alpha")


def _over_variants(scores: pd.DataFrame, name: str) -> pd.DataFrame:
    """Last scores of the variants "name=NUMBER": columns task, method, seed, name, score."""
    last = scores[scores["checkpoint"] == "last"]
    number = last["variant"].str.extract(rf"^{name}=([\d.]+)$")[0].astype(float)
    chosen = last.assign(**{name: number})[number.notna()]
    return chosen[["task", "method", "seed", name, "score"]]
