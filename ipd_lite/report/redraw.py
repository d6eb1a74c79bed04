"""`ipd-lite figures`: every figure and table again, from committed result files alone.

Result files in `figures/data`: scores-TASK.csv, inside-TASK.csv, costs-TASK.csv and
inside.safetensors, the arrays of one maze run (all written by `ipd-lite sweep`), returns.csv (every
task's data, written by `ipd-lite survey`) and published-d4rl.csv (other people's numbers). What has
no data yet is not drawn.
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
from torch import Tensor

from ipd_lite import plots
from ipd_lite.files import load_tensors, write_atomically, write_csv
from ipd_lite.report.results import (
    TABLE_METHODS,
    Groups,
    aggregates,
    alphas,
    amounts,
    comparable,
    family,
    last_scores,
    summarize,
    targets,
)
from ipd_lite.report.statistics import bootstrap_interval, performance_profile
from ipd_lite.report.tables import (
    PUBLISHED,
    explain,
    format_compact,
    format_groups,
    format_table,
    table1_latex,
    table1_markdown,
)
from ipd_lite.study.methods import METHODS
from ipd_lite.study.names import read_scores
from ipd_lite.tasks.registry import TASKS

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
            plots.ablation(_with_family(ablated[several]), plans, AUGMENTATIONS),
        )
    hand_set = targets(scores)
    if len(hand_set):
        reference = plain[plain["method"] == "ipd"]
        yield "figure4-targets", plots.target_sweep(hand_set, reference, TARGETED)
    amount = amounts(scores)
    enough = amount.groupby("task")["amount"].transform("nunique") > 2
    if enough.any():
        yield (
            "figure5-amount",
            plots.amount_curve(_with_family(comparable(amount[enough], ["amount"]))),
        )
    curves, title, thresholds = _profiles(plain)
    if curves:
        yield "figure7-profile", plots.profiles(thresholds, curves, title)
    costs = _together(data, "costs")
    if len(costs):
        # A stage that several methods share is one cost.
        once = costs.drop_duplicates(["task", "seed", "stage", "seconds"])
        yield "figure8-cost", plots.costs(_with_family(once))
    weighted = alphas(scores)
    several = weighted.groupby("task")["alpha"].transform("nunique") > 1
    if several.any():
        found = comparable(weighted[several], ["method", "alpha"])
        yield "figure9-alpha", plots.alpha_curve(found, WEIGHTED)


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
        plots.method_diagram(
            a["maze/walls"], a["maze/goal"], split_paths(a, "data/paths"), a["data/returns"],
            a["values/positions"], a["values/learned"], a["model/observations"],
            a["model/uncertainty"], threshold, split_paths(a, "continuations/recorded"),
            split_paths(a, "continuations/imagined"),
        ),
    )  # fmt: skip
    if "five/error" in a:
        yield (
            "figure6-uncertainty",
            plots.uncertainty_panels(
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


def save_figure(figure: Figure, path: Path, close: bool = True) -> Path:
    """Save as PNG or SVG (by suffix), atomically and without a date, and close the figure."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(buffer, format=path.suffix[1:], metadata=metadata)
    write_atomically(path, buffer.getvalue())
    if close:
        plt.close(figure)
    return path


def score_figures(scores: pd.DataFrame, folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """One chart of last scores per task; variants have figures of their own."""
    plots.style()
    paths = []
    scores = scores[scores["variant"] == ""] if "variant" in scores else scores
    for task, group in scores[scores["checkpoint"] == "last"].groupby("task", sort=False):
        methods = list(dict.fromkeys(group["method"]))
        intervals = {}
        for method in methods:
            found = bootstrap_interval(group.loc[group["method"] == method, "score"].to_numpy())
            intervals[method] = (found.low, found.high)
        title = f"{task}, last checkpoint, one dot per seed"
        for suffix in suffixes:
            figure = plots.score_chart(group, methods, intervals, title)
            paths.append(save_figure(figure, folder / f"scores-{task}{suffix}"))
    return paths


def plain_arrays(arrays: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """The saved tensors as arrays."""
    return {name: tensor.numpy() for name, tensor in arrays.items()}


def split_paths(arrays: dict[str, NDArray[Any]], name: str) -> list[NDArray[Any]]:
    """The paths that :func:`_ragged` joined."""
    return np.split(arrays[name], np.cumsum(arrays[f"{name}/lengths"])[:-1])


def inside_figures(arrays: dict[str, Tensor], folder: Path, suffix: str = ".png") -> list[Path]:
    """Draw what happened inside one maze run from the arrays of :func:`inside_arrays`."""
    plots.style()
    a = plain_arrays(arrays)
    walls, goal = a["maze/walls"], a["maze/goal"]
    data = (split_paths(a, "data/paths"), a["data/returns"], a["data/terminated"])
    maps = (a["values/positions"], a["values/learned"], a["values/exact"])
    model = (a["model/observations"], a["model/uncertainty"], a["model/error"])
    parts = [
        split_paths(a, f"continuations/{kind}") for kind in ("recorded", "imagined", "replayed")
    ]
    drawn = {
        "data": plots.data_by_return(walls, goal, *data),
        "values": plots.value_maps(walls, goal, *maps, float(a["values/spearman"])),
        "uncertainty": plots.uncertainty_maps(
            walls, goal, *model, float(a["model/auroc"]), float(a["model/threshold"])
        ),
        "calibration": plots.calibration(a["model/standardized"]),
        "continuations": plots.continuations(walls, goal, *parts),
        "gain": plots.gain_by_threshold(
            a["gain/quantiles"], a["gain/imagined"], a["gain/real"], a["gain/counts"],
            float(a["gain/chosen"]),
        ),
        "overview": plots.overview(
            walls, goal, data[0], data[1], *maps[:2], *model[:2], parts[0], parts[1]
        ),
    }  # fmt: skip
    return [save_figure(figure, folder / f"{name}{suffix}") for name, figure in drawn.items()]
