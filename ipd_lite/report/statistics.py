"""Means, interquartile means and bootstrap intervals over seeds and tasks.

As in Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice":
95 % percentile-bootstrap intervals, stratified by task (seeds are resampled inside each task, never
across tasks), interquartile means, and the probability of improvement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A number and its bootstrap confidence interval, NaN where there is none.

    Formats as "12.3 [11.0, 13.5]", as "12.3" without an interval, and as nothing without a number;
    a sign that the format asks for stands before the number alone.
    """

    mean: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")

    def __format__(self, form: str) -> str:
        if np.isnan(self.mean):
            return ""
        text, plain = format(self.mean, form), form.replace("+", "")
        if np.isnan(self.low):
            return text
        return f"{text} [{self.low:{plain}}, {self.high:{plain}}]"


def stratified_interval(
    strata: Sequence[Array], statistic: Callable[..., Any], confidence: float = 0.95
) -> Interval:
    """A statistic of several samples (n_i,) and its percentile-bootstrap interval.

    Every sample is resampled for itself; `statistic(*samples, axis)` is vectorized along `axis`. A
    sample of one has no spread to resample, so there is no interval then. Whoever asks again, a
    table or a figure, gets the same interval without another bootstrap.
    """
    samples = tuple(tuple(np.asarray(sample, dtype=np.float64).tolist()) for sample in strata)
    return _bootstrap(samples, statistic, confidence)


@cache
def _bootstrap(
    samples: tuple[tuple[float, ...], ...], statistic: Callable[..., Any], confidence: float
) -> Interval:
    strata = [np.array(sample) for sample in samples]
    value = float(statistic(*strata, axis=-1))
    if min(len(sample) for sample in strata) < 2:
        return Interval(value)
    if all(np.ptp(sample) == 0 for sample in strata):
        return Interval(value, value, value)
    from scipy import stats  # a second to import

    result = stats.bootstrap(
        tuple(strata),
        statistic,
        confidence_level=confidence,
        method="percentile",
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(0),
        batch=500,
    )
    low, high = result.confidence_interval
    return Interval(value, float(low), float(high))


def bootstrap_interval(samples: Array, confidence: float = 0.95) -> Interval:
    """Mean of samples (n,) and its interval, see :func:`stratified_interval`."""
    return stratified_interval([samples], np.mean, confidence)


def errorbar(samples: Array) -> tuple[float, float]:
    """Both ends of :func:`bootstrap_interval`, as seaborn asks for an `errorbar`."""
    found = bootstrap_interval(samples)
    return found.low, found.high


def paired_interval(first: Array, second: Array) -> Interval:
    """Bootstrap interval of the mean difference first - second over paired seeds (n,)."""
    return bootstrap_interval(np.asarray(first) - np.asarray(second))


def interquartile_mean(samples: Array, axis: int = -1) -> Any:
    """Mean of the middle half: a quarter of the samples (rounded down) is cut at either end."""
    ordered = np.sort(samples, axis=axis)
    cut = ordered.shape[axis] // 4
    middle = np.arange(cut, ordered.shape[axis] - cut)
    return np.take(ordered, middle, axis=axis).mean(axis)


def pooled_mean(*samples: Array, axis: int = -1) -> Any:
    """Mean of the samples' means: every task counts the same, whatever its number of seeds."""
    return np.mean([np.mean(sample, axis=axis) for sample in samples], axis=0)


def pooled_interquartile_mean(*samples: Array, axis: int = -1) -> Any:
    """Interquartile mean of all runs together, in which every task counts the same: runs of a task
    that has fewer of them are taken several times."""
    most = math.lcm(*(sample.shape[axis] for sample in samples))
    alike = [np.repeat(sample, most // sample.shape[axis], axis=axis) for sample in samples]
    return interquartile_mean(np.concatenate(alike, axis=axis), axis)


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
    """Probability that a run of the first method beats one of the second, over their tasks; nothing
    where single runs give no interval."""
    tasks = [task for task in first if task in second]
    found = stratified_interval([s[task] for task in tasks for s in (first, second)], improvement)
    return Interval() if np.isnan(found.low) else found


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
