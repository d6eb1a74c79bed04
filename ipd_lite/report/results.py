"""Result files as tables of scores: gathered, ordered, summarized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ipd_lite.report.statistics import (
    Array,
    bootstrap_interval,
    improvement,
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


def labelled(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with methods called "method@variant", in the order of the first appearance."""
    if "variant" not in scores:
        return scores
    labels = [label_of(m, v) for m, v in zip(scores["method"], scores["variant"], strict=True)]
    return scores.assign(method=labels)


def last_scores(scores: pd.DataFrame, checkpoint: str = "last") -> dict[str, dict[str, Array]]:
    """{method: {task: scores (seeds,)}} of one kind of checkpoint."""
    found: dict[str, dict[str, Array]] = {}
    chosen = scores[scores["checkpoint"] == checkpoint]
    for (method, task), group in chosen.groupby(["method", "task"], sort=False):
        found.setdefault(str(method), {})[str(task)] = group["score"].to_numpy(float)
    return found


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Per task and method: seeds; mean and interquartile mean of the last scores with intervals
    over seeds; mean of the best scores; success; the paired difference of IPD to the method (last,
    same seeds); the probability that IPD beats it."""
    scores = labelled(scores)
    rows = []
    for (task, method), group in scores.groupby(["task", "method"], sort=False):
        last = group[group["checkpoint"] == "last"].set_index("seed")
        best = group[group["checkpoint"] == "best"]["score"].to_numpy(float)
        values = last["score"].to_numpy(float)
        mean = bootstrap_interval(values)
        middle = stratified_interval([values], pooled_interquartile_mean)
        highest = bootstrap_interval(best)
        row: dict[str, Any] = {
            "task": task,
            "method": method,
            "seeds": len(last),
            "score_last": mean.mean,
            "low": mean.low,
            "high": mean.high,
            "iqm_last": middle.mean,
            "iqm_low": middle.low,
            "iqm_high": middle.high,
            "score_best": highest.mean,
            "best_low": highest.low,
            "best_high": highest.high,
            "success": last["success"].mean(),
        }
        here = (scores["task"] == task) & (scores["checkpoint"] == "last")
        ipd = scores[here & (scores["method"] == "ipd")].set_index("seed")["score"]
        shared = ipd.index.intersection(last.index)
        if method != "ipd" and len(shared):
            difference = paired_interval(
                ipd[shared].to_numpy(), last.loc[shared, "score"].to_numpy()
            )
            chance = stratified_interval([ipd.to_numpy(float), values], improvement)
            row |= {
                "ipd_minus": difference.mean,
                "ipd_minus_low": difference.low,
                "ipd_minus_high": difference.high,
                "ipd_better": chance.mean,
                "ipd_better_low": chance.low,
                "ipd_better_high": chance.high,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def aggregate(scores: pd.DataFrame) -> pd.DataFrame:
    """Per method over all tasks of `scores`: tasks, runs, mean and interquartile mean of last and
    best scores, probability of improvement of IPD. A method that lacks a task has no numbers."""
    scores = labelled(scores)
    tasks = list(dict.fromkeys(scores["task"]))
    last, best = last_scores(scores), last_scores(scores, "best")
    rows = []
    for method in [m for m in METHODS if m in last] + [m for m in last if m not in METHODS]:
        by_task = last[method]
        row: dict[str, Any] = {
            "method": method,
            "tasks": len(by_task),
            "of": len(tasks),
            "runs": sum(len(values) for values in by_task.values()),
        }
        if len(by_task) == len(tasks):
            ordered = [by_task[task] for task in tasks]
            highest = [best[method][task] for task in tasks]
            found = {
                "mean_last": stratified_interval(ordered, pooled_mean),
                "iqm_last": stratified_interval(ordered, pooled_interquartile_mean),
                "mean_best": stratified_interval(highest, pooled_mean),
                "iqm_best": stratified_interval(highest, pooled_interquartile_mean),
            }
            if method != "ipd" and len(last.get("ipd", {})) == len(tasks):
                found["ipd_better"] = improvement_interval(last["ipd"], by_task)
            for name, interval in found.items():
                row |= {
                    name: interval.mean,
                    f"{name}_low": interval.low,
                    f"{name}_high": interval.high,
                }
        rows.append(row)
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


def family(task: str) -> str:
    """The group of tasks that is averaged over: "mazes", "locomotion", or the first word."""
    first = task.split("-")[0]
    groups = {
        "mazes": ("pointmaze",),
        "locomotion": ("hopper", "halfcheetah", "walker2d"),
        "adroit": ("pen", "door", "hammer", "relocate"),
    }
    return next((name for name, words in groups.items() if first in words), first)


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
    plain = scores[(scores["variant"] == "") & (scores["checkpoint"] == "last")]
    amount = {name: m.amount for name, m in METHODS.items() if name.startswith("ipd-x")}
    amount |= {"ipd": 1.0, "ipd-noaug": 0.0}
    chosen = plain[plain["method"].isin(list(amount))]
    return chosen.assign(amount=chosen["method"].map(amount))[["task", "seed", "amount", "score"]]


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
