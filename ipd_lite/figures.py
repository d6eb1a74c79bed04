"""`ipd-lite figures`: every figure and table again, from committed result files alone.

Result files in `figures/data`: scores-TASK.csv, inside-TASK.csv, costs-TASK.csv and
inside.safetensors, the arrays of one maze run (all written by `ipd-lite sweep`), returns.csv (every
task's data, written by `ipd-lite survey`) and published-d4rl.csv (other people's numbers). What has
no data yet is not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ipd_lite import paper_plots, plots
from ipd_lite.experiments import read_scores
from ipd_lite.methods import METHODS
from ipd_lite.report import inside_figures, plain_arrays, save_figure, score_figures, split_paths
from ipd_lite.runs import load_tensors, write_atomically, write_csv
from ipd_lite.tables import (
    PUBLISHED,
    TABLE_METHODS,
    Groups,
    aggregates,
    alphas,
    amounts,
    comparable,
    explain,
    family,
    format_compact,
    format_groups,
    format_table,
    last_scores,
    performance_profile,
    summarize,
    table1_latex,
    table1_markdown,
    targets,
)
from ipd_lite.tasks import TASKS

SUFFIXES = (".svg", ".png")
AUGMENTATIONS = {
    "ipd-noaug": "none", "ipd-random": "random\nactions", "ipd-greedy": "greedy Q",
    "ipd-nogate": "MPC,\nno gate", "ipd": "MPC\n(IPD)",
}  # fmt: skip
WEIGHTED = {"ipd": "IPD", "ipd-noaug": "IPD without imagined data"}
TARGETED = {"ipd-rtg": "IPD, hand-set target", "qt": "QT", "dt": "Decision Transformer"}


def redraw(data: Path, out: Path) -> list[Path]:
    """Draw everything that `data` has results for into `out`; the paths of the files.

    Raises:
        FileNotFoundError: there are no result files in `data`.
    """
    files = by_task(data, "scores")
    if not files:
        raise FileNotFoundError(f"no scores-*.csv in {data}; run this in the repository's root")
    plots.style()
    paths = []
    scores = pd.concat([read_scores(file) for file in files], ignore_index=True)
    if (data / "returns.csv").exists():
        figure = plots.return_histograms(pd.read_csv(data / "returns.csv"))
        paths.append(save_figure(figure, out / "returns.png"))
    if (data / "inside.safetensors").exists():
        paths += inside_figures(load_tensors(data / "inside.safetensors")[0], out)
    summary = summarize(scores)
    for task, group in scores.groupby("task", sort=False):
        paths += score_figures(group, out, SUFFIXES)
        text = (
            f"{format_table(summary[summary['task'] == task])}\n\n{explain([str(task)], group)}\n"
        )
        paths.append(_write(out / f"scores-{task}.md", text))
    mazes = summary[summary["task"].map(family) == "mazes"]
    paths.append(_write(out / "mazes.md", format_compact(mazes) + "\n"))
    groups = aggregates(scores)
    paths.append(_write(out / "groups.md", format_groups(groups) + "\n"))
    paths += table1(scores, summary, data, out, groups)
    for name, figure in paper_figures(scores, data):
        for suffix in SUFFIXES:
            last = suffix == SUFFIXES[-1]
            paths.append(save_figure(figure, out / f"{name}{suffix}", close=last))
    return paths


def _write(path: Path, text: str) -> Path:
    write_atomically(path, text)
    return path


def table1(
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    data: Path,
    out: Path,
    groups: Groups | None = None,
) -> list[Path]:
    """Table 1 as Markdown, LaTeX and CSV (one row per task and method, last and best).

    Args:
        groups: of these scores, by `tables.aggregates`; None = computed here.
    """
    file = data / PUBLISHED
    published = pd.read_csv(file) if file.exists() else None
    summary = summary[summary["method"].isin(list(METHODS))]  # variants have tables of their own
    write_csv(out / "table1.csv", summary.round(4))
    return [
        _write(out / "table1.md", table1_markdown(scores, summary, published, groups)),
        _write(out / "table1.tex", table1_latex(summary, published)),
        out / "table1.csv",
    ]


def paper_figures(scores: pd.DataFrame, data: Path) -> Iterator[tuple[str, Figure]]:
    """Figures 1 and 3 to 9 by file name, those whose results exist."""
    plain = scores[(scores["variant"] == "") & (scores["checkpoint"] == "last")]
    if (data / "inside.safetensors").exists():
        yield from _figures_of_one_run(data / "inside.safetensors")
    ablated = plain[plain["method"].isin(list(AUGMENTATIONS))]
    # Tasks with IPD and one ablation alone are in the tables; here they would bury the others.
    several = ablated.groupby("task")["method"].transform("nunique") > 2
    if several.any():
        plans = _together(data, "inside")
        yield (
            "figure3-ablation",
            paper_plots.ablation(_with_family(ablated[several]), plans, AUGMENTATIONS),
        )
    hand_set = targets(scores)
    if len(hand_set):
        reference = plain[plain["method"] == "ipd"]
        yield "figure4-targets", paper_plots.target_sweep(hand_set, reference, TARGETED)
    amount = amounts(scores)
    enough = amount.groupby("task")["amount"].transform("nunique") > 2
    if enough.any():
        yield (
            "figure5-amount",
            paper_plots.amount_curve(_with_family(comparable(amount[enough], ["amount"]))),
        )
    curves, title, thresholds = _profiles(plain)
    if curves:
        yield "figure7-profile", paper_plots.profiles(thresholds, curves, title)
    costs = _together(data, "costs")
    if len(costs):
        # A stage that several methods share is one cost.
        once = costs.drop_duplicates(["task", "seed", "stage", "seconds"])
        yield "figure8-cost", paper_plots.costs(_with_family(once))
    weighted = alphas(scores)
    several = weighted.groupby("task")["alpha"].transform("nunique") > 1
    if several.any():
        found = comparable(weighted[several], ["method", "alpha"])
        yield "figure9-alpha", paper_plots.alpha_curve(found, WEIGHTED)


def _with_family(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(family=rows["task"].map(family))


def _profiles(
    plain: pd.DataFrame,
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], str, np.ndarray]:
    """Profiles of the methods that have run on every task that IPD ran on."""
    by_method = last_scores(plain)
    tasks = set(by_method.get("ipd", {}))
    chosen = [m for m in TABLE_METHODS if tasks and tasks <= set(by_method.get(m, {}))]
    if len(chosen) < 2:
        return {}, "", np.zeros(0)
    own = plain[plain["task"].isin(tasks) & plain["method"].isin(chosen)]
    top = max(105.0, float(own["score"].max()) + 1)
    thresholds = np.linspace(min(0.0, float(own["score"].min())), top, 400)
    curves = {
        m: performance_profile({t: by_method[m][t] for t in sorted(tasks)}, thresholds)
        for m in chosen
    }
    seeds = own.groupby(["task", "method"])["seed"].nunique()
    fewest, most = int(seeds.min()), int(seeds.max())
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return curves, f"{len(tasks)} tasks, {count} seeds each", thresholds


def _figures_of_one_run(file: Path) -> Iterator[tuple[str, Figure]]:
    a = plain_arrays(load_tensors(file)[0])
    threshold = float(a["model/threshold"])
    yield (
        "figure1-method",
        paper_plots.method_diagram(
            a["maze/walls"], a["maze/goal"], split_paths(a, "data/paths"), a["data/returns"],
            a["values/positions"], a["values/learned"], a["model/observations"],
            a["model/uncertainty"], threshold, split_paths(a, "continuations/recorded"),
            split_paths(a, "continuations/imagined"),
        ),
    )  # fmt: skip
    if "five/error" in a:
        yield (
            "figure6-uncertainty",
            paper_plots.uncertainty_panels(
                a["model/uncertainty"], a["model/error"], a["model/on_data"],
                a["five/uncertainty"], a["five/error"], a["model/standardized"], threshold,
            ),
        )  # fmt: skip


def by_task(data: Path, kind: str) -> list[Path]:
    """All `kind`-TASK.csv, tasks in the registry's order, others behind them."""
    order = {name: place for place, name in enumerate(TASKS)}

    def place(file: Path) -> tuple[int, str]:
        return order.get(file.stem.removeprefix(f"{kind}-"), len(order)), file.stem

    return sorted(data.glob(f"{kind}-*.csv"), key=place)


def _together(data: Path, kind: str) -> pd.DataFrame:
    """All `kind`-TASK.csv with a column for the task (and a method: older files are of IPD)."""
    parts = []
    for file in by_task(data, kind):
        part = pd.read_csv(file)
        part["task"] = file.stem.removeprefix(f"{kind}-")
        if "method" not in part:
            part["method"] = "ipd"
        parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["method"])
