"""Own data is right or refused: bounds, units, types, chains, as properties over many examples."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from scipy.stats import rankdata

from ipd_lite.data.episodes import Episode, from_arrays, from_episodes
from ipd_lite.data.minari_files import ROWS_READ, load_minari
from ipd_lite.data.spaces import action_bounds, canonical, to_unit_range
from ipd_lite.paper.dataset import DataError, reward_scale
from ipd_lite.paper.nets import Features
from ipd_lite.paper.values import (
    ValueConfig,
    _ranks,
    diagnose,
    train_values,
    warn_if_values_do_not_fit,
)
from tests.helpers import linear_dataset, small_dataset
from tests.test_minari import store_buffers

# ---------------------------------------------------------------- action bounds


class Echo(gym.Env[Any, Any]):
    """Remembers the action that reached it."""

    observation_space = Box(-1, 1, (1,))

    def __init__(self, space: Box) -> None:
        self.action_space = space

    def step(self, action: Any) -> Any:
        self.taken = action
        return np.zeros(1), 0.0, False, False, {}


def bounds_of(draw: st.DrawFn, size: float) -> tuple[float, float]:
    """Any pair of bounds that a Box may have, for numbers of this size."""
    low = draw(st.sampled_from([-np.inf, -1e10, -1e3, -8.0, -1.0, -0.1, 0.0, 0.3])) * size
    high = draw(st.sampled_from([np.inf, 1e10, 1e3, 8.0, 2.0, 1.0, 0.4])) * size
    return (low, high) if draw(st.integers(0, 5)) else (0.5 * size, 0.5 * size)


@given(st.data(), st.sampled_from([1e-3, 1.0, 1e3]), st.integers(0, 1000))
def test_recorded_action_to_network_to_environment_is_the_identity(
    data: st.DataObject, size: float, seed: int
) -> None:
    pairs = [data.draw(st.composite(bounds_of)(size)) for _ in range(3)]
    low, high = (np.array(side) for side in zip(*pairs, strict=True))
    kind = data.draw(st.sampled_from([np.float32, np.float64]))
    space = Box(low.astype(kind), high.astype(kind), dtype=kind)
    generator = np.random.default_rng(seed)
    recorded = generator.normal(size=(20, 3)).astype(kind) * kind(size)
    recorded = np.clip(recorded, space.low, space.high)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bounds = action_bounds(recorded, space, "mine")
    assert bounds.is_bounded()
    unit = to_unit_range(recorded, bounds).astype(np.float32)
    assert (np.abs(unit) <= 1 + 1e-6).all()
    echo = Echo(space)
    env = canonical(echo, bounds)
    used = np.ptp(recorded, axis=0)
    for action, original in zip(unit, recorded, strict=True):
        env.step(action)
        assert space.contains(echo.taken)
        np.testing.assert_allclose(echo.taken, original, atol=1e-4 * float(used.max()), rtol=1e-5)
    # The numbers that the network learns are of its own size, whatever the unit.
    moving = used > 0
    assert (np.ptp(unit, axis=0)[moving] >= 0.019).all()


def test_unit_bounds_are_left_alone_to_the_bit() -> None:
    space = Box(-1, 1, (2,))
    recorded = np.array([[1e-3, 0.5], [2e-3, 0.5]], np.float32)
    assert action_bounds(recorded, space, "mine") is space
    assert to_unit_range(recorded, space) is recorded
    env = Echo(space)
    assert canonical(env) is env


def test_bounds_that_cannot_be_used_are_named_once() -> None:
    recorded = np.array([[0.1, 0.2], [0.3, 0.2]])
    with pytest.warns(UserWarning) as caught:
        action_bounds(recorded, Box(-1e6, 1e6, (2,)), "mine")
    assert [str(w.message) for w in caught] == [
        "mine: bounds [-1e+06, 1e+06] of action entry 0 (and of 1 more) give no scale; "
        "the data's own range stands in, [0.1, 0.3]"
    ]


# ---------------------------------------------------------------- units of rewards and observations


@given(st.floats(1e-3, 1e6), st.integers(0, 100))
def test_scaled_rewards_do_not_depend_on_their_unit(unit: float, seed: int) -> None:
    data = small_dataset(seed)
    other = replace(data, rewards=data.rewards * unit)
    one, two = (d.rewards * reward_scale(d, "discounted range", 0.99) for d in (data, other))
    torch.testing.assert_close(one, two)


def test_rewards_that_are_all_the_same_need_no_scale() -> None:
    data = small_dataset()
    still = replace(data, rewards=torch.zeros(len(data)))
    assert reward_scale(still, "discounted range", 0.99) == 1
    with pytest.raises(DataError, match="every episode has the same return"):
        reward_scale(still, "return range", 0.99)


@pytest.mark.parametrize("unit", [1e-3, 10.0, 1e6])
def test_learned_policy_does_not_depend_on_units(unit: float) -> None:
    """Neither of the rewards nor of the observations."""
    config = ValueConfig(updates=60, width=16, fourier_features=0)
    data = small_dataset()
    other = replace(
        data,
        rewards=data.rewards * unit,
        observations=data.observations * unit,
        next_observations=data.next_observations * unit,
    )
    policies = []
    for d in (data, other):
        scaled = replace(d, rewards=d.rewards * reward_scale(d, "discounted range", 0.99))
        policies.append(train_values(scaled, config, seed=0).policy(d.observations))
    torch.testing.assert_close(*policies, atol=1e-3, rtol=1e-3)


@given(st.sampled_from([1e-9, 1e-6, 1.0, 1e9]), st.floats(-3, 3))
def test_features_are_normalized_in_any_unit_and_constants_are_only_centred(
    unit: float, constant: float
) -> None:
    data = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * unit
    data[:, 1] = constant * unit
    features = Features(3)
    features.fit(data)
    deviation = features(data).std(0, correction=0)
    torch.testing.assert_close(deviation, torch.tensor([1.0, 0.0, 1.0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("unit", "fits"), [(1.0, True), (1e4, False)])
def test_values_that_do_not_follow_the_returns_are_said(unit: float, fits: bool) -> None:
    """A position that pays itself: learnable in a few hundred steps, but not in any unit."""
    data = linear_dataset(
        30,
        20,
        torch.zeros(1, 1),
        torch.eye(1) * 0.1,
        torch.zeros(1),
        reward=lambda state, action: unit * float(state[0]),
    )
    config = ValueConfig(updates=400, width=32, fourier_features=0, discount=0.9)
    found = diagnose(train_values(data, config, seed=0), data, 0.9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_values_do_not_fit(found)
    assert len(caught) == 1 - fits, found
    assert all("V does not follow the data's returns" in str(w.message) for w in caught)
    assert fits == (found.rank_correlation > 0.8 and found.spread > 0.3), found


def observed(column: np.ndarray) -> Episode:
    steps = len(column) - 1
    return Episode(column[:, None], np.zeros((steps, 1)), np.zeros(steps), False)


@pytest.mark.parametrize(
    "column",
    [
        1e7 + np.linspace(0, 1, 50),  # a position far from its origin
        1.7e9 + np.arange(50),  # a clock
        np.arange(50) * 1e-46,  # too small for float32
    ],
)
def test_digits_lost_in_float32_are_said(column: np.ndarray) -> None:
    with pytest.warns(UserWarning, match=r"mine: observations: entry 0 .* subtract an offset"):
        from_episodes([observed(column)], "mine")


@pytest.mark.parametrize(
    "column",
    [
        np.linspace(0, 1, 50),
        np.full(50, 1 / 3),
        1e7 + 100.0 * np.arange(50),
        np.arange(50) * 1e-30,
        1 / 3 + 1e-16 * np.arange(50),
    ],
)
def test_usual_columns_lose_nothing(column: np.ndarray) -> None:
    assert len(from_episodes([observed(column)], "mine")) == 49


# ---------------------------------------------------------------- types and chains


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("order", [(0, 0.5), (0.5, 0)])
def test_rewards_of_mixed_types_are_read(
    data_format: str, order: tuple[float, float], datasets: Path
) -> None:
    """A sparse reward that is the number 0 in one episode and 0.5 in another, as Minari writes."""
    if data_format != "hdf5":
        pytest.importorskip("pyarrow")
    buffers = [
        EpisodeBuffer(
            observations=np.zeros((3, 1), np.float32),
            actions=np.zeros((2, 1), np.float32),
            rewards=[reward, reward],
            terminations=[False, False],
            truncations=[False, True],
        )
        for reward in order
    ]
    store_buffers(buffers, Box(-1, 1, (1,)), Box(-1, 1, (1,)), data_format=data_format)
    assert load_minari("test/other-v0").rewards.tolist() == [order[0]] * 2 + [order[1]] * 2


def test_an_episode_that_minari_would_cut_is_refused_with_the_remedy(datasets: Path) -> None:
    pytest.importorskip("pyarrow")

    def store(steps: int, data_format: str) -> None:
        buffer = EpisodeBuffer(
            observations=np.arange(steps + 1, dtype=np.float32)[:, None],
            actions=np.zeros((steps, 1), np.float32),
            rewards=np.zeros(steps).tolist(),
            terminations=[False] * steps,
            truncations=[False] * (steps - 1) + [True],
        )
        name = f"test/{data_format}-{steps}-v0"
        space = Box(-np.inf, np.inf, (1,)), Box(-1, 1, (1,))
        store_buffers([buffer], *space, name, data_format=data_format)

    most = ROWS_READ - 1
    for data_format in ("arrow", "parquet"):
        store(most, data_format)
        read = load_minari(f"test/{data_format}-{most}-v0").next_observations
        assert read[-1] == most, "up to here nothing is cut"
        store(most + 1, data_format)
        with pytest.raises(DataError, match=r"episode 0: 32,768 steps; .* write it as hdf5"):
            load_minari(f"test/{data_format}-{most + 1}-v0")
    store(most + 1, "hdf5")
    assert len(load_minari(f"test/hdf5-{most + 1}-v0")) == most + 1, "the remedy works"


def test_whole_numbers_among_real_ones_are_such() -> None:
    first = Episode(np.zeros((3, 1), int), np.zeros((2, 1), int), np.zeros(2, bool), False)
    second = Episode(np.full((3, 1), 0.5), np.full((2, 1), 0.5), np.full(2, 0.5), False)
    for episodes in ([first, second], [second, first]):
        data = from_episodes(episodes, "mine")
        assert sorted(data.actions.flatten().tolist()) == [0, 0, 0.5, 0.5]
        assert sorted(data.rewards.tolist()) == [0, 0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["False"] * 6, "terminated has type <U5; expected true, false, 1 or 0"),
        (np.array(["0"] * 6, dtype=object), "terminated has type object"),
        ([0, 0, np.nan, 0, 0, 1], "terminated is nan in row 2"),
        ([0, 0.01, 0, 0, 0, 1], "terminated is 0.01 in row 1"),
    ],
)
def test_flags_are_true_or_false(flags: Any, problem: str) -> None:
    states = np.arange(7, dtype=float)[:, None]
    columns = states[:-1], np.zeros((6, 1)), np.zeros(6), states[1:]
    with pytest.raises(DataError, match=problem):
        from_arrays(*columns, flags)
    for right in ([0.0, 0, 0, 0, 0, 1], [False] * 5 + [True], np.arange(6) == 5):
        data = from_arrays(*columns, np.asarray(right))
        assert (data.episodes, data.terminated.tolist()) == (1, [False] * 5 + [True])


def test_a_nan_is_called_one_and_not_a_row_out_of_order() -> None:
    states = np.arange(301, dtype=float)[:, None]
    states[7:260:2] = np.nan
    columns = states[:-1], np.zeros((300, 1)), np.zeros(300), states[1:]
    with pytest.raises(DataError, match="observations is not finite in row 7; repair or drop it"):
        from_arrays(*columns, np.zeros(300, bool))


@given(st.lists(st.integers(0, 4), min_size=3, max_size=40))
def test_ranks_share_ties_as_spearman_s_do(values: list[int]) -> None:
    other = np.sin(np.arange(len(values)) * 2.3).round(1)
    ours = [_ranks(torch.tensor(x, dtype=torch.float32)) for x in (values, other)]
    for found, exact in zip(ours, (values, other), strict=True):
        np.testing.assert_array_equal(found.numpy(), rankdata(exact))


def test_rows_that_do_not_chain_are_refused_at_once() -> None:
    count = 1_000_000
    states = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    actions, rewards = np.zeros((count, 1), np.float32), np.zeros(count, np.float32)
    begun = time.perf_counter()
    with pytest.raises(DataError, match=r"999,999 of 1,000,000 next_observations are not"):
        from_arrays(states, actions, rewards, states, np.zeros(count, bool))
    assert time.perf_counter() - begun < 10
