"""Summaries as text: every table is a frame of cells, written by one of three small writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ipd_lite.report.results import SCALED, TABLE_METHODS, Groups
from ipd_lite.report.statistics import Interval
from ipd_lite.study.methods import METHODS

PUBLISHED = "published-d4rl.csv"

SIGNED, CHANCE = "+.1f", ".2f"

UNDER_THE_TABLE = (
    "Score = 100 (return - a) / (b - a) of the undiscounted return; a and b are given per "
    "task below. *Last* is the final checkpoint, the number to compare; *best* is the best "
    "checkpoint, chosen on the reported episodes, which flatters every method. Evaluation "
    "episodes per run: {episodes}. Brackets: 95 % bootstrap intervals "
    "over seeds, stratified by task. IQM: mean of the middle half. *IPD minus it* pairs the "
    "seeds. *P(IPD beats it)*: chance that a run of IPD scores higher than one of the method."
)


def markdown(table: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latex(table: pd.DataFrame, caption: str) -> str:
    """A frame of texts as a LaTeX table (booktabs), the first column to the left."""
    body = "\n".join(" & ".join(line) + " \\\\" for line in table.to_numpy().tolist())
    return (
        f"\\begin{{table}}\n\\caption{{{caption}}}\n\\small\n"
        f"\\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}\n\\toprule\n"
        f"{' & '.join(table.columns)} \\\\\n\\midrule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def numbers(summary: pd.DataFrame) -> pd.DataFrame:
    """A summary as numbers for CSV: every interval as three columns, four digits."""
    parts = {}
    for name in summary:
        cells = summary[name].tolist()
        if isinstance(cells[0], Interval):
            parts[name] = [cell.mean for cell in cells]
            parts[f"{name}_low"] = [cell.low for cell in cells]
            parts[f"{name}_high"] = [cell.high for cell in cells]
        else:
            parts[name] = cells
    return pd.DataFrame(parts).round(4)


def _cell(value: Any, form: str = ".1f") -> str:
    """A text as it is, a number or an interval by its format, nothing for what is missing."""
    if isinstance(value, str):
        return value
    return "" if isinstance(value, float) and pd.isna(value) else format(value, form)


def _crossed(
    rows: pd.DataFrame, index: str, columns: str, shown: Mapping[str, tuple[str, str]]
) -> pd.DataFrame:
    """`rows` with `index` down and `columns` across, both in order of their first appearance.

    Args:
        shown: column of `rows` -> its format and its heading ("" = the name that is crossed).
    """
    wide = rows.pivot(index=index, columns=columns, values=list(shown))
    down, across = (list(dict.fromkeys(rows[name])) for name in (index, columns))
    parts = [pd.Series(down, index=down, name=index)]
    for name in across:
        for value, (form, heading) in shown.items():
            cells = wide[value, name].reindex(down).map(lambda cell, form=form: _cell(cell, form))
            parts.append(cells.rename(heading or name))
    return pd.concat(parts, axis=1)


def format_table(summary: pd.DataFrame) -> str:
    """The summary of one or more tasks as a Markdown table, scores with one decimal."""
    columns = {
        "task": ("task", ""),
        "method": ("method", ""),
        "seeds": ("seeds", "d"),
        "last": ("mean, last [95 %]", ".1f"),
        "last_iqm": ("IQM, last [95 %]", ".1f"),
        "best": ("mean, best [95 %]", ".1f"),
        "success": ("success", ".0%"),
        "ipd_minus": ("IPD minus it", SIGNED),
        "ipd_better": ("P(IPD beats it)", CHANCE),
    }
    return markdown(_columns(summary, columns))


def format_aggregate(found: pd.DataFrame) -> str:
    """The aggregate as a Markdown table."""
    columns = {
        "method": ("method", ""),
        "tasks": ("tasks", ""),
        "runs": ("runs", "d"),
        "last": ("mean, last [95 %]", ".1f"),
        "last_iqm": ("IQM, last [95 %]", ".1f"),
        "best": ("mean, best [95 %]", ".1f"),
        "best_iqm": ("IQM, best [95 %]", ".1f"),
        "ipd_better": ("P(IPD beats it)", CHANCE),
    }
    share = [f"{some} of {all_}" for some, all_ in zip(found["tasks"], found["of"], strict=True)]
    return markdown(_columns(found.assign(tasks=share), columns))


def _columns(rows: pd.DataFrame, columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Chosen columns as texts: column of `rows` -> heading and format."""
    return pd.DataFrame(
        {title: [_cell(x, form) for x in rows[name]] for name, (title, form) in columns.items()}
    )


def format_compact(summary: pd.DataFrame) -> str:
    """Methods x tasks: mean last score with its interval, and the paired difference of IPD to the
    method (the README's table)."""
    shown = {"last": (".1f", ""), "ipd_minus": (SIGNED, "IPD minus it")}
    table = _crossed(summary, "method", "task", shown).set_index("method", drop=False)
    return markdown(table.loc[[m for m in METHODS if m in table.index and m not in SCALED]])


def format_groups(groups: Groups) -> str:
    """Methods x groups of tasks: interquartile mean of the last scores and P(IPD beats it), for
    methods that have run on every task of a group (the README's second table)."""
    rows = pd.concat(
        [found.assign(group=f"{name} ({len(tasks)})") for name, (tasks, found) in groups.items()]
    )
    shown = {"last_iqm": (".1f", ""), "ipd_better": (CHANCE, "P(IPD beats it)")}
    table = _crossed(rows, "method", "group", shown)
    return markdown(table[(table.iloc[:, 1:] != "").any(axis=1)])


def table1_rows(summary: pd.DataFrame, column: str = "last") -> pd.DataFrame:
    """Table 1 as texts: a row per task, a column per method that has any score."""
    rows = summary[summary["method"].isin(TABLE_METHODS)]
    table = _crossed(rows, "task", "method", {column: (".1f", "")})
    return table[["task", *(m for m in TABLE_METHODS if m in table)]]


def published_block(published: pd.DataFrame) -> pd.DataFrame:
    """Other people's numbers as texts: a row per dataset, a column per method."""
    return _crossed(published, "dataset", "method", {"score": (".1f", "")})


def explain(tasks: Sequence[str], scores: pd.DataFrame, catalogue: pd.DataFrame) -> str:
    """What stands under a table: score, checkpoints, intervals, data and environments.

    Args:
        catalogue: columns dataset, source, environment, score_definition, by name of the task.
    """
    counts = sorted({int(n) for n in scores.loc[scores["method"] != "behaviour", "episodes"]})
    lines = [UNDER_THE_TABLE.format(episodes=" or ".join(map(str, counts))), ""]
    for name in tasks:
        if name not in catalogue.index:
            lines.append(f"- {name}: not in this version's registry of tasks.")
            continue
        task = catalogue.loc[name]
        rows = scores[scores["task"] == name]
        used = list(dict.fromkeys(rows["source"])) if "source" in rows else []
        others = [f"`{source}`" for source in used if source != task["source"]]
        data = f"dataset `{task['dataset']}` (recorded by {task['source']})"
        if others:
            data = f"dataset {', '.join(others)} in place of `{task['dataset']}`"
        lines.append(
            f"- {name}: {data}, environment `{task['environment']}`; "
            f"score {task['score_definition']}."
        )
    return "\n".join(lines)


def table1_markdown(
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    groups: Groups,
    catalogue: pd.DataFrame,
    published: pd.DataFrame | None,
) -> str:
    """Table 1: ours (last, then best), the aggregates, what they mean, and published numbers.

    Args:
        summary, groups: of these scores, by `results.summarize` and `results.aggregates`.
        catalogue: as in :func:`explain`.
    """
    parts = [
        "# Table 1",
        "## Ours, last checkpoint: mean over seeds [95 % interval]",
        markdown(table1_rows(summary)),
        "## Ours, best checkpoint",
        markdown(table1_rows(summary, "best")),
    ]
    for name, (members, found) in groups.items():
        parts += [f"## Over {name} ({', '.join(members)})", format_aggregate(found)]
    plain = scores[scores["variant"] == ""]
    parts.append(explain(list(dict.fromkeys(plain["task"])), plain, catalogue))
    if published is not None:
        parts += [
            "## Other data: published numbers for D4RL",
            "Other datasets, other environment versions, other budgets: they stand here for "
            "orientation and must not be compared with the numbers above.",
            markdown(published_block(published)),
            "\n".join(f"- {source}" for source in dict.fromkeys(published["source"])),
        ]
    return "\n\n".join(parts) + "\n"


def table1_latex(summary: pd.DataFrame, published: pd.DataFrame | None) -> str:
    """Table 1 in LaTeX (booktabs): ours, then published numbers in a table of their own."""
    ours = "Last checkpoint, mean over seeds with 95\\,\\% bootstrap interval. Our own datasets."
    text = "% needs \\usepackage{booktabs}\n" + latex(table1_rows(summary), ours)
    if published is not None:
        caption = "Other data: published numbers for D4RL, not comparable with ours."
        text += latex(published_block(published), caption)
    return text
