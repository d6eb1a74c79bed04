"""From scores.csv files to statistics and tables. Nothing here trains or draws.

Statistics follow Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
precipice": interquartile means, 95 % bootstrap intervals stratified by task (seeds are resampled
inside each task, never across tasks), and the probability of improvement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ipd_lite.report.results import SCALED, TABLE_METHODS, Groups, aggregates
from ipd_lite.study.methods import METHODS
from ipd_lite.tasks.registry import TASKS

PUBLISHED = "published-d4rl.csv"


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
