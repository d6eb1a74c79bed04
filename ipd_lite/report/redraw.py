"""`ipd-lite figures`: every figure and table again, from committed result files alone.

Result files in `figures/data`: scores-TASK.csv, inside-TASK.csv, costs-TASK.csv, catalogue.csv (the
tasks' data and environments) and inside.safetensors, the arrays of one maze run (all written by
`ipd-lite sweep`), returns.csv (every task's data) and published-d4rl.csv (other people's numbers).
What has no data yet is not drawn. Neither torch nor a simulator is needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ipd_lite import plots
from ipd_lite.files import load_arrays, write_atomically, write_csv
from ipd_lite.report import tables
from ipd_lite.report.results import (
    SCALED,
    Groups,
    aggregates,
    alphas,
    amounts,
    by_method,
    comparable,
    family,
    last_of,
    summarize,
    targets,
)
from ipd_lite.report.statistics import errorbar, performance_profile
from ipd_lite.study.methods import METHODS
from ipd_lite.study.names import read_scores

Arrays = dict[str, NDArray[Any]]

SUFFIXES = (".svg", ".png")

AUGMENTATIONS = ("ipd-noaug", "ipd-random", "ipd-greedy", "ipd-nogate", "ipd")

PROFILED = ("dt", "td3bc", "cql", "iql", "qt", "ipd")

SPAN = 40.0
"""Points of score that a panel of figure 7 shows at least, down from the best run; else down to the
worst run of IPD."""


def redraw(data: Path, out: Path) -> list[Path]:
    """Draw everything that `data` has results for into `out`; the paths of the files.

    Raises:
        FileNotFoundError: there are no result files in `data`.
    """
    files = by_task(data, "scores")
    if not files:
        raise FileNotFoundError(f"no scores-*.csv in {data}; run this in the repository's root")
    plots.style()
    scores = pd.concat([read_scores(file) for file in files], ignore_index=True)
    summary, groups = summarize(scores), aggregates(scores)
    paths = write_tables(scores, summary, groups, data, out)
    paths += score_figures(scores[~scores["method"].isin(SCALED)], out, SUFFIXES)
    if (data / "returns.csv").exists():
        figure = plots.return_histograms(pd.read_csv(data / "returns.csv"))
        paths.append(save_figure(figure, out / "returns.png"))
    if (data / "inside.safetensors").exists():
        paths += inside_figures(load_arrays(data / "inside.safetensors"), out)
    for name, figure in paper_figures(scores, data):
        paths += _save(figure, out / name, SUFFIXES)
    return paths


def by_task(data: Path, kind: str) -> list[Path]:
    """All `kind`-TASK.csv, tasks in the catalogue's order, others behind them."""
    order = {name: place for place, name in enumerate(read_catalogue(data).index)}

    def place(file: Path) -> tuple[int, str]:
        return order.get(file.stem.removeprefix(f"{kind}-"), len(order)), file.stem

    return sorted(data.glob(f"{kind}-*.csv"), key=place)


def read_catalogue(data: Path) -> pd.DataFrame:
    """What the tasks of the results are, by name; empty where no sweep has written it."""
    if not (data / "catalogue.csv").exists():
        return pd.DataFrame()
    return pd.read_csv(data / "catalogue.csv", index_col="task")


def write_tables(
    scores: pd.DataFrame, summary: pd.DataFrame, groups: Groups, data: Path, out: Path
) -> list[Path]:
    """A table per task, the README's two, and Table 1 as Markdown, LaTeX and CSV."""
    catalogue = read_catalogue(data)
    texts = {}
    for task, rows in summary.groupby("task", sort=False):
        about = tables.explain([str(task)], scores[scores["task"] == task], catalogue)
        texts[f"scores-{task}.md"] = f"{tables.format_table(rows)}\n\n{about}\n"
    mazes = summary[summary["task"].map(family) == "mazes"]
    if len(mazes):
        texts["mazes.md"] = tables.format_compact(mazes) + "\n"
    if groups:
        texts["groups.md"] = tables.format_groups(groups) + "\n"
    file = data / tables.PUBLISHED
    published = pd.read_csv(file) if file.exists() else None
    plain = summary[summary["method"].isin(list(METHODS))]  # variants have tables of their own
    texts["table1.md"] = tables.table1_markdown(scores, plain, groups, catalogue, published)
    texts["table1.tex"] = tables.table1_latex(plain, published)
    for name, text in texts.items():
        write_atomically(out / name, text)
    write_csv(out / "table1.csv", tables.numbers(plain))
    return [out / name for name in (*texts, "table1.csv")]


def score_figures(scores: pd.DataFrame, folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """One chart of last scores per task; variants have figures of their own."""
    plots.style()
    paths = []
    for task, rows in last_of(scores).groupby("task", sort=False):
        title = f"{plots.task_name(str(task))}: last checkpoint, mean and 95 % interval over seeds"
        methods = list(dict.fromkeys(rows["method"]))
        figure = plots.score_chart(rows, methods, title, errorbar)
        paths += _save(figure, folder / f"scores-{task}", suffixes)
    return paths


def paper_figures(scores: pd.DataFrame, data: Path) -> Iterator[tuple[str, Figure]]:
    """Figures 1 and 3 to 9 by file name, those whose results exist."""
    last = last_of(scores)
    if (data / "inside.safetensors").exists():
        yield from _figures_of_one_run(load_arrays(data / "inside.safetensors"))
    ablated = last[last["method"].isin(AUGMENTATIONS)]
    # Tasks with IPD and one ablation alone are in the tables; here they would bury the others.
    ablated = ablated[ablated.groupby("task")["method"].transform("nunique") > 2]
    if len(ablated):
        plans = _together(data, "inside")
        yield "figure3-ablation", plots.ablation(ablated, plans, AUGMENTATIONS, errorbar)
    hand_set = targets(scores)
    if len(hand_set):
        reference = last[last["method"] == "ipd"]
        yield "figure4-targets", plots.target_sweep(hand_set, reference, errorbar)
    amount = amounts(scores)
    amount = amount[amount.groupby("task")["amount"].transform("nunique") > 2]
    if len(amount):
        yield "figure5-amount", plots.amount_curve(comparable(amount, ["amount"]), errorbar)
    if profiled := _profiles(last):
        yield "figure7-profile", plots.profiles(profiled)
    costs = _together(data, "costs")
    if len(costs):
        # A stage that several methods share is one cost; scoring recorded episodes is none.
        once = costs.drop_duplicates(["task", "seed", "stage", "seconds"])
        once = once[(once["stage"] != "evaluation") | (once["method"] != "behaviour")]
        yield "figure8-cost", plots.costs(once.assign(family=once["task"].map(family)))
    weighted = alphas(scores)
    weighted = weighted[weighted.groupby("task")["alpha"].transform("nunique") > 1]
    if len(weighted):
        found = comparable(weighted, ["method", "alpha"])
        yield "figure9-alpha", plots.alpha_curve(found, errorbar)


def _profiles(last: pd.DataFrame) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Per family of several tasks the profiles of the methods that have run on all of them."""
    panels = {}
    for name, rows in last.groupby(last["task"].map(family), sort=False):
        found, tasks = by_method(rows), list(dict.fromkeys(rows["task"]))
        whole = [m for m in PROFILED if m in found and len(found[m]) == len(tasks)]
        if len(tasks) < 2 or len(whole) < 2:
            continue
        best = float(rows["score"].max()) + 1
        least = float(rows.loc[rows["method"] == "ipd", "score"].min()) - 1
        thresholds = np.linspace(np.fmin(best - SPAN, least), best, 400)
        curves = {m: performance_profile(found[m], thresholds) for m in whole}
        panels[f"{name} ({len(tasks)} tasks)"] = (thresholds, curves)
    return panels


def _together(data: Path, kind: str) -> pd.DataFrame:
    """All `kind`-TASK.csv with a column for the task."""
    parts = [
        pd.read_csv(file).assign(task=file.stem.removeprefix(f"{kind}-"))
        for file in by_task(data, kind)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def save_figure(figure: Figure, path: Path) -> Path:
    """Save as PNG or SVG (by suffix), atomically and without a date, and close the figure."""
    return _save(figure, path.with_suffix(""), [path.suffix])[0]


def _save(figure: Figure, stem: Path, suffixes: Sequence[str]) -> list[Path]:
    paths = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    for path in paths:
        buffer = io.BytesIO()
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(buffer, format=path.suffix[1:], metadata=metadata)
        write_atomically(path, buffer.getvalue())
    plt.close(figure)
    return paths


def split_paths(arrays: Arrays, name: str) -> list[NDArray[Any]]:
    """Paths of different lengths that one array holds end to end."""
    return np.split(arrays[name], np.cumsum(arrays[f"{name}/lengths"])[:-1])


def _maps(a: Arrays) -> tuple[Any, ...]:
    """What the overview and figure 1 draw: maze, data, V, U, recorded and imagined paths."""
    return (
        a["maze/walls"],
        a["maze/goal"],
        split_paths(a, "data/paths"),
        a["data/returns"],
        a["values/positions"],
        a["values/learned"],
        a["model/observations"],
        a["model/uncertainty"],
        split_paths(a, "continuations/recorded"),
        split_paths(a, "continuations/imagined"),
    )


def _figures_of_one_run(a: Arrays) -> Iterator[tuple[str, Figure]]:
    yield "figure1-method", plots.method_diagram(*_maps(a))
    single = (a["model/uncertainty"], a["model/error"], a["model/on_data"])
    figure = plots.uncertainty_panels(
        *single, a["five/uncertainty"], a["five/error"], float(a["model/threshold"])
    )
    yield "figure6-uncertainty", figure


def inside_figures(a: Arrays, folder: Path) -> list[Path]:
    """Draw what happened inside one maze run from the arrays of `inside.inside_arrays`."""
    plots.style()
    walls, goal, paths, returns, positions, learned, states, doubt, recorded, imagined = _maps(a)
    auroc, threshold = float(a["model/auroc"]), float(a["model/threshold"])
    drawn = {
        "data": plots.data_by_return(walls, goal, paths, returns, a["data/terminated"]),
        "values": plots.value_maps(
            walls, goal, positions, learned, a["values/exact"], float(a["values/spearman"])
        ),
        "uncertainty": plots.uncertainty_maps(
            walls, goal, states, doubt, a["model/error"], auroc, threshold
        ),
        "calibration": plots.calibration(a["model/standardized"]),
        "continuations": plots.continuations(
            walls, goal, recorded, imagined, split_paths(a, "continuations/replayed")
        ),
        "gain": plots.gain_by_threshold(
            a["gain/quantiles"],
            a["gain/imagined"],
            a["gain/real"],
            a["gain/counts"],
            float(a["gain/chosen"]),
        ),
        "overview": plots.overview(*_maps(a)),
    }
    return [save_figure(figure, folder / f"{name}.png") for name, figure in drawn.items()]
