"""From scores.csv files to statistics and tables. Nothing here trains or draws.

Statistics follow Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
precipice": interquartile means, 95 % bootstrap intervals stratified by task (seeds are resampled
inside each task, never across tasks), and the probability of improvement.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ipd_lite.evaluate import (
    Interval,
    bootstrap_interval,
    paired_interval,
    stratified_interval,
)
from ipd_lite.experiments import label_of, read_scores
from ipd_lite.methods import METHODS
from ipd_lite.tasks import TASKS

Array = NDArray[np.float64]
Groups = Mapping[str, tuple[list[str], pd.DataFrame]]
"""Name of a group of tasks -> its tasks and their aggregate."""

TABLE_METHODS = ("behaviour", "bc", "bc-10", "td3bc", "cql", "iql", "dt", "qt", "ipd")
"""The columns of Table 1; every other method is in the per-task tables."""
SCALED = [name for name, method in METHODS.items() if method.amount != 1.0]
"""IPD with other amounts of imagined data: figure 5 has them, summaries leave them out."""
PUBLISHED = "published-d4rl.csv"


def gather_scores(root: Path) -> pd.DataFrame:
    """All scores.csv rows below `root`, sorted by task, method (in the registry's order), seed.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(root.glob("*/*/seed-*/scores.csv"))
    if not files:
        raise FileNotFoundError(f"no scores below {root}; run `ipd-lite run` or `ipd-lite demo`")
    return in_order(pd.concat([read_scores(file) for file in files]), ["checkpoint"])


def in_order(rows: pd.DataFrame, last: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of runs sorted by task, method (as in the registry), variant, seed, then `last`; rows
    that are equal in all of them keep their order."""
    order = {name: i for i, name in enumerate(METHODS)}
    key = rows["method"].map(lambda m: order.get(m, len(order)))
    ranks = [name for name in ("task", "_order", "variant", "seed") if name in [*rows, "_order"]]
    ordered = rows.assign(_order=key).sort_values([*ranks, *last], kind="stable")
    return ordered.drop(columns="_order").reset_index(drop=True)


def with_earlier(
    path: Path, rows: pd.DataFrame, keys: Sequence[str] = ("task", "method", "variant", "seed")
) -> pd.DataFrame:
    """`rows`, and those of the file `path` that `rows` has no counterpart of, first.

    A study is run in slices, on several machines even: a slice replaces its own rows only.
    """
    if not path.exists():
        return rows
    earlier = read_scores(path) if "variant" in rows else pd.read_csv(path)
    shared = [key for key in keys if key in rows and key in earlier]
    here = set(rows[shared].itertuples(index=False, name=None))
    kept = [row not in here for row in earlier[shared].itertuples(index=False, name=None)]
    if any(kept):
        print(f"{path}: kept {sum(kept)} rows of earlier runs", file=sys.stderr)
    return pd.concat([earlier[kept], rows], ignore_index=True) if any(kept) else rows


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


# -- statistics ------------------------------------------------------------------------------------


def interquartile_mean(samples: Array, axis: int = -1) -> Any:
    """Mean of the middle half: a quarter of the samples (rounded down) is cut at either end."""
    return stats.trim_mean(samples, 0.25, axis=axis)


def pooled_mean(*samples: Array, axis: int = -1) -> Any:
    """Mean of the samples' means: every task counts the same, whatever its number of seeds."""
    return np.mean([np.mean(sample, axis=axis) for sample in samples], axis=0)


def pooled_interquartile_mean(*samples: Array, axis: int = -1) -> Any:
    """Interquartile mean of all runs of all tasks together."""
    return interquartile_mean(np.concatenate(samples, axis=axis), axis)


def improvement(*samples: Array, axis: int = -1) -> Any:
    """Mean over tasks of P(first > second) + P(equal) / 2, over all pairs of runs.

    Args:
        samples: first and second of task 1, first and second of task 2, ...
    """
    assert axis == -1
    chances = []
    for first, second in zip(samples[::2], samples[1::2], strict=True):
        one, other = first[..., :, None], second[..., None, :]
        chances.append(((one > other) + 0.5 * (one == other)).mean((-1, -2)))
    return np.mean(chances, axis=0)


def improvement_interval(first: Mapping[str, Array], second: Mapping[str, Array]) -> Interval:
    """Probability that a run of the first method beats one of the second, over their tasks."""
    tasks = [task for task in first if task in second]
    pairs = [scores[task] for task in tasks for scores in (first, second)]
    return stratified_interval(pairs, improvement)


# -- summaries -------------------------------------------------------------------------------------


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


# -- text ------------------------------------------------------------------------------------------


def cell(value: float, low: float = np.nan, high: float = np.nan, form: str = ".1f") -> str:
    """A number with its interval, or nothing where there is none."""
    if value != value:
        return ""
    text = format(value, form)
    plain = form.replace("+", "")
    return text if low != low else f"{text} [{low:{plain}}, {high:{plain}}]"


def chance(value: float, low: float, high: float) -> str:
    """A probability with its interval; nothing where single runs give no interval."""
    return "" if low != low else cell(value, low, high, ".2f")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def format_table(summary: pd.DataFrame) -> str:
    """The summary of one or more tasks as a Markdown table, scores with one decimal."""
    rows = []
    for row in summary.to_dict("records"):
        minus, low, high = (row.get(f"ipd_minus{end}", np.nan) for end in ("", "_low", "_high"))
        better = [row.get(f"ipd_better{end}", np.nan) for end in ("", "_low", "_high")]
        success = "" if np.isnan(row["success"]) else f"{row['success']:.0%}"
        rows.append(
            [
                str(row["task"]), str(row["method"]), str(row["seeds"]),
                cell(row["score_last"], row["low"], row["high"]),
                cell(row["iqm_last"], row["iqm_low"], row["iqm_high"]),
                cell(row["score_best"], row["best_low"], row["best_high"]), success,
                cell(minus, low, high, "+.1f"), chance(*better),
            ]
        )  # fmt: skip
    return markdown(
        [
            "task", "method", "seeds", "mean, last [95 %]", "IQM, last [95 %]",
            "mean, best [95 %]", "success", "IPD minus it", "P(IPD beats it)",
        ],
        rows,
    )  # fmt: skip


def format_compact(summary: pd.DataFrame) -> str:
    """Methods x tasks: mean last score with its interval, and the paired difference of IPD to the
    method (the README's table)."""
    tasks = list(dict.fromkeys(summary["task"]))
    indexed = summary.set_index(["task", "method"])
    rows = []
    for method in [m for m in METHODS if (summary["method"] == m).any() and m not in SCALED]:
        cells = [method]
        for task in tasks:
            if (task, method) not in indexed.index:
                cells += ["", ""]
                continue
            row = indexed.loc[(task, method)]
            minus, low, high = (row.get(f"ipd_minus{end}", np.nan) for end in ("", "_low", "_high"))
            cells.append(cell(row["score_last"], row["low"], row["high"]))
            cells.append(cell(minus, low, high, "+.1f"))
        rows.append(cells)
    header = [title for task in tasks for title in (task, "IPD minus it")]
    return markdown(["method", *header], rows)


def format_aggregate(found: pd.DataFrame) -> str:
    """The aggregate as a Markdown table."""
    rows = []
    for row in found.to_dict("records"):
        columns = ("mean_last", "iqm_last", "mean_best", "iqm_best")
        numbers = [[row.get(f"{c}{end}", np.nan) for end in ("", "_low", "_high")] for c in columns]
        better = [row.get(f"ipd_better{end}", np.nan) for end in ("", "_low", "_high")]
        rows.append(
            [str(row["method"]), f"{row['tasks']} of {row['of']}", str(row["runs"])]
            + [cell(*number) for number in numbers]
            + [chance(*better)]
        )
    header = ["method", "tasks", "runs", "mean, last [95 %]", "IQM, last [95 %]",
              "mean, best [95 %]", "IQM, best [95 %]", "P(IPD beats it)"]  # fmt: skip
    return markdown(header, rows)


def format_groups(groups: Groups) -> str:
    """Methods x groups of tasks: interquartile mean of the last scores and P(IPD beats it), for
    methods that have run on every task of a group (the README's second table)."""
    indexed = {name: found.set_index("method") for name, (_, found) in groups.items()}
    rows = []
    for method in dict.fromkeys(m for found in indexed.values() for m in found.index):
        cells = [str(method)]
        for found in indexed.values():
            row: Mapping[str, Any] = found.loc[method].to_dict() if method in found.index else {}
            ends = ("", "_low", "_high")
            cells.append(cell(*(row.get(f"iqm_last{end}", np.nan) for end in ends)))
            cells.append(chance(*(row.get(f"ipd_better{end}", np.nan) for end in ends)))
        if any(cells[1:]):
            rows.append(cells)
    header = [
        title
        for name, (members, _) in groups.items()
        for title in (f"{name} ({len(members)})", "P(IPD beats it)")
    ]
    return markdown(["method", *header], rows)


def explain(tasks: Sequence[str], scores: pd.DataFrame) -> str:
    """What stands under a table: score, checkpoints, intervals, data and environments."""
    episodes = sorted({int(n) for n in scores.loc[scores["method"] != "behaviour", "episodes"]})
    lines = [
        "Score = 100 (return - a) / (b - a) of the undiscounted return; a and b are given per "
        "task below. *Last* is the final checkpoint, the number to compare; *best* is the best "
        "checkpoint, chosen on the reported episodes, which flatters every method. Evaluation "
        f"episodes per run: {' or '.join(map(str, episodes))}. Brackets: 95 % bootstrap intervals "
        "over seeds, stratified by task. IQM: mean of the middle half. *IPD minus it* pairs the "
        "seeds. *P(IPD beats it)*: chance that a run of IPD scores higher than one of the method.",
        "",
    ]
    for name in tasks:
        if name not in TASKS:
            lines.append(f"- {name}: not in this version's registry of tasks.")
            continue
        task = TASKS[name]
        data = f"dataset `{task.dataset}` (recorded by {task.source})"
        if others := _other_sources(scores, name, task.source):
            data = f"dataset {', '.join(others)} in place of `{task.dataset}`"
        lines.append(
            f"- {name}: {data}, environment `{task.environment}`; score {task.score_definition}."
        )
    return "\n".join(lines)


def _other_sources(scores: pd.DataFrame, task: str, usual: str) -> list[str]:
    """Data other than the task's own that its rows come from (older files do not tell)."""
    if "source" not in scores:
        return []
    found = scores.loc[scores["task"] == task, "source"].dropna().unique()
    return [f"`{source}`" for source in found if source != usual]


def table1_rows(
    summary: pd.DataFrame, column: str = "score_last", ends: tuple[str, str] = ("low", "high")
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of Table 1: a row per task, a column per method that has any score."""
    present = [m for m in TABLE_METHODS if (summary["method"] == m).any()]
    indexed = summary.set_index(["task", "method"])
    rows = []
    for task in dict.fromkeys(summary["task"]):
        cells = [str(task)]
        for method in present:
            if (task, method) not in indexed.index:
                cells.append("")
                continue
            row = indexed.loc[(task, method)]
            cells.append(cell(row[column], row[ends[0]], row[ends[1]]))
        rows.append(cells)
    return ["task", *present], rows


def published_block(published: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows of other people's numbers: a row per dataset, a column per method."""
    wide = published.pivot(index="dataset", columns="method", values="score")
    methods = list(dict.fromkeys(published["method"]))
    datasets = list(dict.fromkeys(published["dataset"]))
    rows = [[d, *(cell(float(wide.loc[d, m])) for m in methods)] for d in datasets]
    return ["dataset", *methods], rows


def table1_markdown(
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    published: pd.DataFrame | None,
    groups: Groups | None = None,
) -> str:
    """Table 1: ours (last, then best), the aggregates, what they mean, and published numbers.

    Args:
        summary: of these scores, by :func:`summarize`.
        groups: of these scores, by :func:`aggregates`; None = computed here.
    """
    plain = scores[scores["variant"] == ""]
    tasks = list(dict.fromkeys(plain["task"]))
    parts = [
        "# Table 1",
        "## Ours, last checkpoint: mean over seeds [95 % interval]",
        markdown(*table1_rows(summary)),
        "## Ours, best checkpoint",
        markdown(*table1_rows(summary, "score_best", ("best_low", "best_high"))),
    ]
    groups = aggregates(scores) if groups is None else groups
    for name, (members, found) in groups.items():
        parts += [f"## Over {name} ({', '.join(members)})", format_aggregate(found)]
    parts.append(explain(tasks, plain))
    if published is not None:
        sources = dict.fromkeys(published["source"])
        parts += [
            "## Other data: published numbers for D4RL",
            "Other datasets, other environment versions, other budgets: they stand here for "
            "orientation and must not be compared with the numbers above.",
            markdown(*published_block(published)),
            "\n".join(f"- {source}" for source in sources),
        ]
    return "\n\n".join(parts) + "\n"


def table1_latex(summary: pd.DataFrame, published: pd.DataFrame | None) -> str:
    """Table 1 in LaTeX (booktabs): ours, then published numbers in a table of their own."""
    blocks = [
        (
            "Last checkpoint, mean over seeds with 95\\,\\% bootstrap interval. Our own datasets.",
            table1_rows(summary),
        )
    ]
    if published is not None:
        caption = "Other data: published numbers for D4RL, not comparable with ours."
        blocks.append((caption, published_block(published)))
    text = "% needs \\usepackage{booktabs}\n"
    for caption, (header, rows) in blocks:
        body = "\n".join(" & ".join(line) + " \\\\" for line in rows)
        text += (
            f"\\begin{{table}}\n\\caption{{{caption}}}\n\\small\n"
            f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n\\toprule\n"
            f"{' & '.join(header)} \\\\\n\\midrule\n{body}\n\\bottomrule\n"
            "\\end{tabular}\n\\end{table}\n"
        )
    return text


# -- curves for figures ----------------------------------------------------------------------------


def performance_profile(
    by_task: Mapping[str, Array], thresholds: Array, confidence: float = 0.95
) -> tuple[Array, Array, Array]:
    """Share of runs that score above each threshold, averaged over tasks, and its stratified
    bootstrap interval: three arrays (thresholds,)."""
    generator = np.random.default_rng(0)
    shares, resampled = [], []
    for values in by_task.values():
        above = values[:, None] > thresholds  # (seeds, thresholds)
        shares.append(above.mean(0))
        draws = generator.integers(len(values), size=(1_000, len(values)))
        resampled.append(above[draws].mean(1))
    spread = np.mean(resampled, axis=0)
    low, high = np.quantile(spread, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return np.mean(shares, axis=0), low, high


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
