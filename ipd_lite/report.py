"""From saved results to tables and figures: what `ipd-lite demo` and `ipd-lite figures` draw.

Nothing here trains. Tables are drawn from scores.csv files, figures of what happened inside from
the stages of one run.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use(os.environ.get("MPLBACKEND", "Agg"))

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ipd_lite import diagnostics, plots
from ipd_lite.evaluate import bootstrap_interval, paired_interval
from ipd_lite.pipeline import METHODS, Pipeline
from ipd_lite.runs import write_atomically, write_csv
from ipd_lite.world_model import calibrate_threshold

QUANTILES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def gather_scores(root: Path) -> pd.DataFrame:
    """All scores.csv rows below `root`, sorted by task, method (in the registry's order), seed.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(root.glob("*/*/seed-*/scores.csv"))
    if not files:
        raise FileNotFoundError(f"no scores below {root}; run `ipd-lite run` or `ipd-lite demo`")
    scores = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
    order = {name: i for i, name in enumerate(METHODS)}
    key = scores["method"].map(lambda m: order.get(m, len(order)))
    rank = scores.assign(_order=key).sort_values(["task", "_order", "seed", "checkpoint"])
    return rank.drop(columns="_order").reset_index(drop=True)


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Per task and method: seeds, mean last score with a 95 % bootstrap interval over seeds, mean
    best score, success, and the paired difference of IPD to it (last, same seeds)."""
    rows = []
    for (task, method), group in scores.groupby(["task", "method"], sort=False):
        last = group[group["checkpoint"] == "last"].set_index("seed")
        best = group[group["checkpoint"] == "best"]
        interval = bootstrap_interval(last["score"].to_numpy())
        row = {
            "task": task,
            "method": method,
            "seeds": len(last),
            "score_last": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "score_best": best["score"].mean(),
            "success": last["success"].mean(),
        }
        here = (scores["task"] == task) & (scores["checkpoint"] == "last")
        ipd = scores[here & (scores["method"] == "ipd")].set_index("seed")["score"]
        shared = ipd.index.intersection(last.index)
        if method != "ipd" and len(shared):
            difference = paired_interval(
                ipd[shared].to_numpy(), last.loc[shared, "score"].to_numpy()
            )
            row |= {
                "ipd_minus": difference.mean,
                "ipd_minus_low": difference.low,
                "ipd_minus_high": difference.high,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def format_table(summary: pd.DataFrame) -> str:
    """The summary as a Markdown table, scores with one decimal."""

    def span(low: float, high: float) -> str:
        return "" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"

    lines = [
        "| task | method | seeds | score, last [95 %] | score, best | success | IPD minus it |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary.to_dict("records"):
        paired = ""
        if not np.isnan(row.get("ipd_minus", np.nan)):
            paired = f"{row['ipd_minus']:+.1f}{span(row['ipd_minus_low'], row['ipd_minus_high'])}"
        lines.append(
            f"| {row['task']} | {row['method']} | {row['seeds']} | {row['score_last']:.1f}"
            f"{span(row['low'], row['high'])} | {row['score_best']:.1f} "
            f"| {row['success']:.0%} | {paired} |"
        )
    return "\n".join(lines)


def save_figure(figure: Figure, path: Path) -> Path:
    """Save as PNG or SVG (by suffix), atomically and without a date, and close the figure."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(buffer, format=path.suffix[1:], metadata=metadata)
    write_atomically(path, buffer.getvalue())
    plt.close(figure)
    return path


def score_figures(scores: pd.DataFrame, folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """One chart of last scores per task."""
    plots.style()
    paths = []
    for task, group in scores[scores["checkpoint"] == "last"].groupby("task", sort=False):
        methods = list(dict.fromkeys(group["method"]))
        intervals = {}
        for method in methods:
            found = bootstrap_interval(group.loc[group["method"] == method, "score"].to_numpy())
            intervals[method] = (found.low, found.high)
        seeds = group["seed"].nunique()
        title = f"{task}, last checkpoint, {seeds} seed{'s' if seeds > 1 else ''}"
        for suffix in suffixes:
            figure = plots.score_chart(group, methods, intervals, title)
            paths.append(save_figure(figure, folder / f"scores-{task}{suffix}"))
    return paths


def inside_figures(pipeline: Pipeline, folder: Path) -> list[Path]:
    """What happened inside one maze run, and the numbers behind it (inside.csv).

    Raises:
        ValueError: the task is not a maze.
    """
    plots.style()
    maze = diagnostics.maze_of(pipeline.task)
    walls, goal = maze.walls, maze.goal
    data, discount = pipeline.dataset, pipeline.discount
    drawn = {}

    shown = data.select_episodes(torch.arange(min(600, data.episodes), device=data.device))
    drawn["data"] = plots.data_by_return(
        walls, goal, episode_paths(shown), shown.episode_returns.cpu().numpy(),
        shown.terminated[shown.starts + shown.lengths - 1].cpu().numpy(),
    )  # fmt: skip

    values = diagnostics.value_map(pipeline.task, pipeline.values, data, discount)
    drawn["values"] = plots.value_maps(
        walls, goal, values.positions, values.learned, values.exact, values.spearman
    )

    report = diagnostics.model_report(
        pipeline.task, pipeline.world_model, pipeline.holdout, pipeline.seed
    )
    drawn["uncertainty"] = plots.uncertainty_maps(
        walls, goal, report.observations, report.uncertainty, report.error, report.auroc,
        float(pipeline.threshold),
    )  # fmt: skip
    drawn["calibration"] = plots.calibration(report.standardized)

    found, traces = diagnostics.replay(
        pipeline.task, pipeline.continuations, data, pipeline.values, discount
    )
    few = pipeline.continuations.select(torch.arange(min(40, len(traces)), device=data.device))
    length = int(few.actions.shape[1])
    rows, valid = data.windows(few.start, length)
    recorded = [
        data.observations[r[v]].cpu().numpy() for r, v in zip(rows, valid, strict=True)
    ]  # fmt: skip
    imagined = [
        o[: n + 1].cpu().numpy()
        for o, n in zip(few.observations, few.length.tolist(), strict=True)
    ]  # fmt: skip
    drawn["continuations"] = plots.continuations(walls, goal, recorded, imagined, traces[:40])

    # Looser gates than the one in use need continuations that it would have stopped.
    loose = pipeline.attempt_without_gate()
    found, _ = diagnostics.replay(pipeline.task, loose, data, pipeline.values, discount)
    thresholds = np.array(
        [float(calibrate_threshold(pipeline.world_model, pipeline.holdout, q)) for q in QUANTILES]
    )
    gains = diagnostics.gain_by_threshold(found, thresholds)
    drawn["gain"] = plots.gain_by_threshold(
        np.array(QUANTILES), *gains, chosen=pipeline.config.imagination.quantile
    )
    write_csv(
        folder / "inside.csv",
        [
            {"quantity": "spearman of V with V*", "value": values.spearman},
            {"quantity": "AUROC of U for the worst decile of error", "value": report.auroc},
            *(
                {"quantity": f"{kind} gain at quantile {q}", "value": float(v)}
                for kind, column in zip(("imagined", "real"), gains[:2], strict=True)
                for q, v in zip(QUANTILES, column, strict=True)
            ),
        ],
    )
    return [save_figure(figure, folder / f"{name}.png") for name, figure in drawn.items()]


def episode_paths(data: object) -> list[np.ndarray]:
    """Positions (T + 1, 2) of every episode of a maze dataset."""
    from ipd_lite.data import OfflineDataset

    assert isinstance(data, OfflineDataset)
    paths = []
    for start, length in zip(data.starts.tolist(), data.lengths.tolist(), strict=True):
        rows = data.observations[start : start + length, :2]
        final = data.next_observations[start + length - 1 : start + length, :2]
        paths.append(torch.cat([rows, final]).cpu().numpy())
    return paths
