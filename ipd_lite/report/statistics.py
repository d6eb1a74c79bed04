"""Means, interquartile means and bootstrap intervals over seeds and tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap confidence interval."""

    mean: float
    low: float
    high: float


def stratified_interval(
    strata: Sequence[NDArray[np.float64]], statistic: Callable[..., Any], confidence: float = 0.95
) -> Interval:
    """A statistic of several samples (n_i,) and its percentile-bootstrap interval.

    Every sample is resampled for itself; `statistic(*samples, axis)` is vectorized along `axis`. A
    sample of one has no spread to resample, so there is no interval then (NaN bounds).
    """
    value = float(statistic(*strata, axis=-1))
    if min(len(sample) for sample in strata) < 2:
        return Interval(value, float("nan"), float("nan"))
    if all(np.ptp(sample) == 0 for sample in strata):
        return Interval(value, value, value)
    result = stats.bootstrap(
        tuple(strata), statistic, confidence_level=confidence, method="percentile",
        n_resamples=RESAMPLES, vectorized=True, rng=np.random.default_rng(0), batch=500,
    )  # fmt: skip
    low, high = result.confidence_interval
    return Interval(value, float(low), float(high))


def bootstrap_interval(samples: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Mean of samples (n,) and its interval, see :func:`stratified_interval`."""
    return stratified_interval([samples], np.mean, confidence)


def paired_interval(first: NDArray[np.float64], second: NDArray[np.float64]) -> Interval:
    """Bootstrap interval of the mean difference first - second over paired seeds (n,)."""
    return bootstrap_interval(np.asarray(first) - np.asarray(second))


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


Array = NDArray[np.float64]
