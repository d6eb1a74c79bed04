"""Bootstrapped returns and suboptimal segments, against plain Python loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ipd_lite.course.stitching import find_segments
from ipd_lite.paper.shortfall import bootstrapped_returns, shortfall, suboptimal_steps

Ending = tuple[int, bool]
endings = st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=5)


def marks(episodes: list[Ending]) -> tuple[Tensor, Tensor]:
    """(terminated, last) of flat transitions for episodes of (length, terminates)."""
    terminated, last = [], []
    for length, terminates in episodes:
        last += [False] * (length - 1) + [True]
        terminated += [False] * (length - 1) + [terminates]
    return torch.tensor(terminated), torch.tensor(last)


@given(endings, st.integers(1, 9), st.floats(0, 1), st.integers(0, 1000))
def test_bootstrapped_return_equals_a_loop(
    episodes: list[Ending], steps: int, discount: float, seed: int
) -> None:
    terminated, last = marks(episodes)
    generator = torch.Generator().manual_seed(seed)
    rewards, values, following = torch.randn(3, len(last), generator=generator, dtype=torch.float64)
    found = bootstrapped_returns(rewards, terminated, last, values, following, steps, discount)
    start = 0
    for length, terminates in episodes:
        for step in range(length):
            end = min(step + steps, length)
            total = sum(discount ** (i - step) * rewards[start + i] for i in range(step, end))
            if end < length:
                total += discount ** (end - step) * values[start + end]
            elif not terminates:
                total += discount ** (end - step) * following[start + length - 1]
            assert float(found[start + step]) == pytest.approx(float(total), abs=1e-12)
        start += length


def test_only_termination_stops_bootstrapping() -> None:
    """By hand: two steps of reward 1, V' = 10 at the end, discount 1/2."""
    rewards, values, following = torch.ones(4), torch.full((4,), 4.0), torch.full((4,), 10.0)
    terminated, last = marks([(2, True), (2, False)])
    found = bootstrapped_returns(rewards, terminated, last, values, following, 5, 0.5)
    assert found.tolist() == [1.5, 1.0, 1 + 0.5 * 6, 6.0]


@given(endings, st.integers(1, 9), st.integers(0, 1000))
def test_exact_values_of_the_data_leave_no_shortfall(
    episodes: list[Ending], steps: int, seed: int
) -> None:
    """If V is the true return of what was recorded, cutting the recording must not matter."""
    terminated, last = marks(episodes)
    discount, generator = 0.9, np.random.default_rng(seed)
    rewards = torch.from_numpy(generator.normal(size=len(last)))
    values, following = torch.zeros(2, len(last), dtype=torch.float64)
    for i in reversed(range(len(last))):
        beyond = 0.0 if terminated[i] else float(generator.normal())
        following[i] = beyond if last[i] else values[i + 1]
        values[i] = rewards[i] + discount * following[i]
    found = bootstrapped_returns(rewards, terminated, last, values, following, steps, discount)
    torch.testing.assert_close(shortfall(values, found), torch.zeros_like(values))


def test_zero_steps_is_an_error() -> None:
    terminated, last = marks([(2, True)])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        bootstrapped_returns(torch.ones(2), terminated, last, torch.ones(2), torch.ones(2), 0, 0.9)


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30),
    st.floats(0, 1),
)
def test_suboptimal_steps_are_the_worst_of_the_data(gaps: list[float], fraction: float) -> None:
    shortfalls = torch.tensor(gaps)
    chosen = suboptimal_steps(shortfalls, fraction)
    assert int(chosen.sum()) == round(fraction * len(gaps))
    if chosen.any() and not chosen.all():
        assert shortfalls[chosen].min() >= shortfalls[~chosen].max()


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        suboptimal_steps(torch.zeros(3), fraction)


@given(endings, st.floats(0, 1), st.integers(0, 1000))
def test_segments_are_maximal_runs_inside_one_episode(
    episodes: list[Ending], density: float, seed: int
) -> None:
    _, last = marks(episodes)
    generator = torch.Generator().manual_seed(seed)
    suboptimal = torch.rand(len(last), generator=generator) < density
    shortfalls = torch.randn(len(last), generator=generator, dtype=torch.float64)
    expected, start = [], 0
    for length, _ in episodes:
        steps = range(start, start + length)
        for marked, run in itertools.groupby(steps, key=lambda i: bool(suboptimal[i])):
            if marked:
                rows = list(run)
                gain = sum(float(shortfalls[i]) for i in rows) / len(rows)
                expected.append((rows[0], len(rows), pytest.approx(gain)))
        start += length
    found = find_segments(suboptimal, last, shortfalls)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
