"""What happened inside one maze run, from its stored stages: arrays for the figures, and numbers.

Nothing here trains.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.values import diagnose
from ipd_lite.paper.world_model import holdout_uncertainty
from ipd_lite.report import diagnostics
from ipd_lite.study.pipeline import Pipeline

matplotlib.use(os.environ.get("MPLBACKEND", "Agg"))


QUANTILES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def inside_arrays(pipeline: Pipeline) -> dict[str, Tensor]:
    """Everything that the figures of one maze run show, as plain arrays.

    Raises:
        ValueError: the task is not a maze.
    """
    maze = diagnostics.maze_of(pipeline.task)
    data, discount = pipeline.dataset, pipeline.discount
    if not len(pipeline.continuations):
        raise ValueError(
            "no imagined continuation was accepted, so there is nothing to draw; raise "
            "imagination.quantile or lower imagination.min_length"
        )
    shown = data.select_episodes(torch.arange(min(500, data.episodes), device=data.device))
    values = diagnostics.value_map(pipeline.task, pipeline.values, data, discount)
    model = diagnostics.model_report(
        pipeline.task, pipeline.world_model, pipeline.holdout, pipeline.seed
    )
    five = diagnostics.open_loop_report(
        pipeline.world_model, pipeline.holdout, pipeline.seed, steps=5
    )
    few = pipeline.continuations.select(slice(0, 40))
    _, traces = diagnostics.replay(
        pipeline.task, few, data, pipeline.values, discount, count=len(few)
    )
    rows, valid = data.windows(few.start, few.actions.shape[1])
    # Looser gates than the one in use need continuations that it would have stopped.
    loose = pipeline.attempt_without_gate()
    doubts = holdout_uncertainty(pipeline.world_model, pipeline.holdout)
    thresholds = torch.quantile(doubts, torch.tensor(QUANTILES, device=data.device))
    imagined, real, counts = diagnostics.gain_by_threshold(
        pipeline.task,
        loose,
        data,
        pipeline.values,
        discount,
        thresholds.cpu().numpy(),
        pipeline.config.imagination.min_length,
    )
    paths = [data.observations[r[v], :2].cpu().numpy() for r, v in zip(rows, valid, strict=True)]
    dreams = [
        o[: n + 1, :2].cpu().numpy() for o, n in zip(few.observations, few.length, strict=True)
    ]
    plain = {
        "maze/walls": maze.walls,
        "maze/goal": maze.goal,
        "data/returns": shown.episode_returns.cpu().numpy(),
        "data/terminated": shown.terminated[shown.starts + shown.lengths - 1].cpu().numpy(),
        **_ragged("data/paths", episode_paths(shown)),
        "values/positions": values.positions,
        "values/learned": values.learned,
        "values/exact": values.exact,
        "values/spearman": np.array(values.spearman),
        "model/observations": model.observations,
        "model/uncertainty": model.uncertainty,
        "model/error": model.error,
        "model/standardized": model.standardized,
        "model/on_data": model.on_data,
        "model/auroc": np.array(model.auroc),
        "five/uncertainty": five.uncertainty,
        "five/error": five.error,
        "model/threshold": np.array(float(pipeline.threshold)),
        **_ragged("continuations/recorded", paths),
        **_ragged("continuations/imagined", dreams),
        **_ragged("continuations/replayed", [trace[:, :2] for trace in traces]),
        "gain/quantiles": np.array(QUANTILES),
        "gain/imagined": imagined,
        "gain/real": real,
        "gain/counts": counts,
        "gain/chosen": np.array(pipeline.config.imagination.quantile or np.nan),
    }
    return {
        name: torch.as_tensor(np.asarray(array, np.float32 if array.dtype == np.float64 else None))
        for name, array in plain.items()
    }


def inside_numbers(pipeline: Pipeline) -> dict[str, float]:
    """One row of inside-<task>.csv: how far the learned parts of one maze run can be trusted."""
    data, discount = pipeline.dataset, pipeline.discount
    found = diagnose(pipeline.values, data, discount)
    values = diagnostics.value_map(pipeline.task, pipeline.values, data, discount)
    model = diagnostics.model_report(
        pipeline.task, pipeline.world_model, pipeline.holdout, pipeline.seed
    )
    replayed, _ = diagnostics.replay(
        pipeline.task, pipeline.continuations, data, pipeline.values, discount
    )
    return {
        "seed": pipeline.seed,
        "spearman_v": round(values.spearman, 4),
        "v_mean": round(found.v_mean, 3),
        "monte_carlo_mean": round(found.monte_carlo_mean, 3),
        "bound_violation": round(found.violation, 4),
        "auroc_u": round(model.auroc, 4),
        "threshold": round(float(pipeline.threshold), 4),
        "accepted": pipeline.bookkeeping["accepted"],
        "starts": pipeline.bookkeeping["starts"],
        "imagined_gain": round(float(replayed.imagined.mean()), 3),
        "replayed_gain": round(float(replayed.real.mean()), 3),
        "replayed_distance_median": round(float(np.median(replayed.distance)), 3),
    }


def _ragged(name: str, paths: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Paths of different lengths as one array and their lengths."""
    return {name: np.concatenate(paths), f"{name}/lengths": np.array([len(p) for p in paths])}


def episode_paths(data: OfflineDataset) -> list[NDArray[Any]]:
    """Positions (T + 1, 2) of every episode of a maze dataset."""
    paths = []
    for start, length in zip(data.starts.tolist(), data.lengths.tolist(), strict=True):
        rows = data.observations[start : start + length, :2]
        final = data.next_observations[start + length - 1 : start + length, :2]
        paths.append(torch.cat([rows, final]).cpu().numpy())
    return paths
