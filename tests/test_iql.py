"""Implicit Q-learning against closed forms and against dynamic programming on a tiny MDP."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.paper.dataset import Batch, OfflineDataset
from ipd_lite.paper.nets import in_chunks
from ipd_lite.paper.values import (
    ValueConfig,
    Values,
    diagnose,
    expectile_loss,
    iql_loss,
    train_values,
    value_bounds,
)
from tests.helpers import GAMMA, episode_lists, same_bits, small_dataset

TINY = ValueConfig(
    updates=600,
    batch_size=64,
    learning_rate=1e-2,
    width=16,
    depth=1,
    layer_norm=False,
    fourier_features=0,
    target_rate=0.1,
    discount=GAMMA,
)


def minimizer(samples: Tensor, expectile: float) -> float:
    """The constant that minimizes the loss, by ternary search (the loss is convex)."""
    low, high = float(samples.min()), float(samples.max())
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if expectile_loss(samples - left, expectile) < expectile_loss(samples - right, expectile):
            high = right
        else:
            low = left
    return (low + high) / 2


@given(
    samples=st.lists(st.floats(-10, 10), min_size=2, max_size=20),
    expectile=st.floats(0.05, 0.95),
)
def test_minimizer_satisfies_the_expectiles_defining_equation(
    samples: list[float], expectile: float
) -> None:
    """tau E[(X - m)+] = (1 - tau) E[(m - X)+] (Newey & Powell, 1987)."""
    x = torch.tensor(samples, dtype=torch.float64)
    m = minimizer(x, expectile)
    above, below = (x - m).clamp_min(0).mean(), (m - x).clamp_min(0).mean()
    assert float(expectile * above) == pytest.approx(float((1 - expectile) * below), abs=1e-5)


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.9])
def test_expectile_of_known_samples(expectile: float) -> None:
    """Of a uniform variable: sqrt(tau) / (sqrt(tau) + sqrt(1 - tau)); of a fair coin: tau."""
    uniform = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    root, rest = math.sqrt(expectile), math.sqrt(1 - expectile)
    assert minimizer(uniform, expectile) == pytest.approx(root / (root + rest), abs=1e-3)
    coin = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert minimizer(coin, expectile) == pytest.approx(expectile, abs=1e-6)


def test_half_is_the_mean_and_one_tends_to_the_maximum() -> None:
    x = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    assert minimizer(x, 0.5) == pytest.approx(3.0)
    assert minimizer(x, 0.9999) == pytest.approx(6.0, abs=0.01)


@given(st.floats(-5, 5), st.floats(0.05, 0.95), st.floats(0.2, 2))
def test_huber_is_squared_inside_and_straight_outside(
    difference: float, expectile: float, threshold: float
) -> None:
    u = torch.tensor(difference, dtype=torch.float64, requires_grad=True)
    expectile_loss(u, expectile, threshold).backward()
    assert u.grad is not None
    weight = expectile if difference >= 0 else 1 - expectile
    slope = 2 * weight * max(-threshold, min(threshold, difference))
    assert float(u.grad) == pytest.approx(slope, abs=1e-6)


STATES = 5


def chain_dataset(length: int, seed: int = 0, episodes: int = 400) -> OfflineDataset:
    """A corridor of five cells with its goal beyond the last; reward -1, random walks.

    Observations are one-hot; action -1 walks left (or into the wall), +1 right. Recordings are
    cut after `length` steps, so that no short one leads from the first cell to the goal.
    """
    generator = np.random.default_rng(seed)
    recorded = []
    actions: list[list[float]]
    for _ in range(episodes):
        position = int(generator.integers(STATES))
        states, actions = [position], []
        while len(actions) < length and position < STATES:
            direction = int(generator.choice([-1, 1]))
            position = max(0, position + direction)
            states.append(position)
            actions.append([float(direction)])
        one_hot = np.eye(STATES + 1)[states]
        recorded.append(
            Episode(one_hot, np.array(actions), -np.ones(len(actions)), position == STATES)
        )
    return from_episodes(recorded, "chain")


def walk(position: int, direction: int) -> int:
    return max(0, position + direction)


def solve_chain(best: bool) -> Tensor:
    """V* (or the random walk's V) by sweeping Bellman's equation over the table."""
    table = np.zeros(STATES + 1)
    for _ in range(1000):
        for position in range(STATES):
            ahead = [-1 + GAMMA * table[walk(position, d)] for d in (-1, 1)]
            table[position] = max(ahead) if best else np.mean(ahead)
    return torch.tensor(table[:STATES], dtype=torch.float32)


@pytest.fixture(scope="module")
def stitched() -> Values:
    config = replace(TINY, expectile=0.97, updates=800, final_learning_rate=0.05)
    return train_values(chain_dataset(length=3), config, seed=0, normalize_observations=False)


CELLS = torch.eye(STATES + 1)[:STATES]


def test_v_reaches_the_optimum_by_stitching_short_walks(stitched: Values) -> None:
    torch.testing.assert_close(stitched.v(CELLS), solve_chain(best=True), atol=0.2, rtol=0)


def test_q_ranks_actions_and_policy_walks_to_the_goal(stitched: Values) -> None:
    right, left = (stitched.q(CELLS, torch.full((STATES, 1), x)) for x in (1.0, -1.0))
    table = solve_chain(best=True)
    ahead = torch.tensor([-1 + GAMMA * table[walk(i, -1)] for i in range(STATES)])
    torch.testing.assert_close(left, ahead, atol=0.3, rtol=0)
    assert (right > left + 0.2).all()
    assert (stitched.policy(CELLS) > 0.4).all()


def test_expectile_of_one_half_evaluates_the_datas_policy() -> None:
    config = replace(TINY, expectile=0.5, updates=800)
    values = train_values(chain_dataset(length=8), config, seed=0, normalize_observations=False)
    torch.testing.assert_close(values.v(CELLS), solve_chain(best=False), atol=0.4, rtol=0)
    assert (solve_chain(best=True) - solve_chain(best=False)).max() > 1.5


def one_step_dataset(terminated: bool) -> OfflineDataset:
    """Two states; each recording is one step from the first to the second and back, reward 1."""
    there, back = np.eye(2), np.eye(2)[::-1]
    return from_episodes(
        [Episode(states, np.zeros((1, 1)), np.ones(1), terminated) for states in (there, back)],
        "one step",
    )


@pytest.mark.parametrize(("terminated", "expected"), [(True, 1.0), (False, 1 / (1 - GAMMA))])
def test_only_termination_stops_bootstrapping(terminated: bool, expected: float) -> None:
    """The task goes on for ever behind a cut recording: 1 + gamma + gamma^2 + ... = 10."""
    config = replace(TINY, expectile=0.5, updates=400)
    values = train_values(
        one_step_dataset(terminated), config, seed=0, normalize_observations=False
    )
    torch.testing.assert_close(
        values.v(torch.eye(2)), torch.full((2,), expected), atol=0.05 * expected, rtol=0
    )


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_policy_is_advantage_weighted_regression(beta: float) -> None:
    """A bandit in closed form: Q(-.5) = 0, Q(.5) = 1, V = tau; weights exp(beta (Q - V))."""
    episodes = [
        Episode(np.ones((2, 1)), np.array([[a]]), np.array([r]), True)
        for a, r in ((-0.5, 0.0), (0.5, 1.0))
    ]
    config = replace(TINY, expectile=0.7, temperature=beta, updates=500)
    values = train_values(
        from_episodes(episodes, "bandit"), config, seed=0, normalize_observations=False
    )
    assert float(values.v(torch.ones(1, 1))) == pytest.approx(0.7, abs=0.02)
    expected = 0.5 * math.tanh(beta / 2)
    assert float(values.policy(torch.ones(1, 1))) == pytest.approx(expected, abs=0.03)


WIDE = (torch.tensor(-1e9), torch.tensor(1e9))
"""Bounds that clip nothing."""


def test_weights_are_capped() -> None:
    """However large the advantage, no sample counts more than max_weight."""
    values, batch = constant_values(v=-3.0), small_batch()  # the advantage is 3 everywhere
    losses = []
    for temperature, cap in ((1e4, 7.0), (1e4, 14.0), (math.log(5) / 3, 7.0)):
        config = replace(TINY, temperature=temperature, max_weight=cap)
        losses.append(float(iql_loss(values, batch, config, WIDE)[1]["policy_loss"]))
    assert losses[0] > 0
    assert losses[1] == pytest.approx(losses[0] * 2)
    assert losses[2] == pytest.approx(losses[0] * 5 / 7)


def small_batch(rewards: float = 1.0) -> Batch:
    """Four random transitions."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.randn(4, 2, generator=generator),
        torch.rand(4, 1, generator=generator),
        torch.full((4,), rewards),
        torch.randn(4, 2, generator=generator),
        torch.ones(4),
    )


def gradients(values: Values, batch: Batch) -> dict[str, Tensor | None]:
    values.zero_grad()
    iql_loss(values, batch, TINY, WIDE)[0].backward()
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in values.named_parameters()
    }


def test_losses_teach_their_own_networks_only() -> None:
    """What V, Q and the actor learn must not leak into each other through the summed loss."""
    torch.manual_seed(0)
    values = Values(TINY, 2, 1)
    batch = small_batch()
    before = gradients(values, batch)
    assert all(grad is None for name, grad in before.items() if name.startswith("q_target"))
    with torch.no_grad():
        for parameter in values.actor.parameters():
            parameter.add_(0.3)
    after = gradients(values, batch)
    for name, grad in before.items():
        other = after[name]
        if grad is not None and other is not None:
            unchanged = torch.equal(grad, other)
            assert unchanged == (not name.startswith(("actor", "log_deviation"))), name


def test_v_learns_from_the_target_networks_and_not_from_the_online_ones() -> None:
    torch.manual_seed(0)
    values = Values(TINY, 2, 1)
    before = gradients(values, small_batch())
    with torch.no_grad():
        for parameter in values.q_net.parameters():
            parameter.add_(0.3)
    after = gradients(values, small_batch())
    for name in before:
        if name.startswith("v_net"):
            torch.testing.assert_close(before[name], after[name])


def test_wrong_shape_fails_instead_of_broadcasting() -> None:
    """(B, 1) - (B,) would silently become (B, B)."""
    batch = small_batch()
    with pytest.raises(AssertionError):
        iql_loss(Values(TINY, 2, 1), batch._replace(rewards=batch.rewards[:, None]), TINY, WIDE)


@given(
    rewards=st.lists(st.floats(-3, 3), min_size=1, max_size=30),
    discount=st.floats(0, 0.99),
    endless=st.booleans(),
)
def test_no_possible_return_leaves_the_bounds(
    rewards: list[float], discount: float, endless: bool
) -> None:
    played = torch.tensor(rewards, dtype=torch.float64)
    low, high = value_bounds(played, discount)
    powers = discount ** torch.arange(len(rewards), dtype=torch.float64)
    total = (powers * played).sum()
    if endless:  # the last reward for ever
        total += played[-1] * discount ** len(rewards) / (1 - discount)
    assert low - 1e-9 <= total <= high + 1e-9


def test_bounds_are_reached() -> None:
    """Always the best reward, always the worst."""
    low, high = value_bounds(torch.tensor([-1.0, 2.0]), 0.9)
    assert [float(low), float(high)] == pytest.approx([-10, 20])
    low, high = value_bounds(torch.tensor([1.0, 2.0]), 0.9)
    assert [float(low), float(high)] == pytest.approx([1, 20])


@pytest.mark.parametrize(
    ("clip", "continues", "target"),
    [(True, 1, -10), (False, 1, -91), (True, 0, -1), (False, 0, -1)],
)
def test_target_by_hand(clip: bool, continues: int, target: float) -> None:
    """Reward -1, V(s') = -100, gamma = 0.9, Q = 0: the loss of Q is the target squared."""
    values = constant_values(v=-100.0)
    batch = small_batch(rewards=-1.0)._replace(continues=torch.full((4,), float(continues)))
    bounds = value_bounds(batch.rewards, GAMMA)
    _, logs = iql_loss(values, batch, replace(TINY, clip_targets=clip), bounds)
    assert float(logs["q_loss"]) == pytest.approx(target**2)


def constant_values(v: float) -> Values:
    """Networks that say Q = 0 and V = v everywhere."""
    values = Values(TINY, 2, 1)
    for parameter in values.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(values.v_net.head.bias, v)
    return values


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_q_reduction(reduction: str) -> None:
    torch.manual_seed(0)
    config = replace(TINY, q_reduction=reduction, q_networks=3)  # type: ignore[arg-type]
    values = Values(config, 2, 1)
    observations, actions = torch.randn(5, 2), torch.randn(5, 1)
    members = values.q_net(torch.cat([values.features(observations), actions], 1)).squeeze(-1)
    expected = members.min(0).values if reduction == "min" else members.sum(0) / 3
    torch.testing.assert_close(values.q(observations, actions), expected)


@given(
    shape=st.lists(st.integers(1, 3), max_size=3),
    observations=st.integers(1, 3),
    actions=st.integers(1, 3),
    q_networks=st.integers(1, 3),
    v_networks=st.integers(1, 2),
)
def test_any_leading_shape(
    shape: list[int], observations: int, actions: int, q_networks: int, v_networks: int
) -> None:
    config = replace(TINY, q_networks=q_networks, v_networks=v_networks, fourier_features=3)
    values = Values(config, observations, actions, position_dimensions=(0,))
    states = torch.randn(*shape, observations)
    taken = torch.randn(*shape, actions)
    assert values.v(states).shape == tuple(shape)
    assert values.q(states, taken).shape == tuple(shape)
    assert values.policy(states).shape == (*shape, actions)
    assert values.policy(states).abs().max() <= 1


@given(episode_lists(most=3, imagined=False))
def test_loss_is_finite_on_any_valid_data(episodes: list[Episode]) -> None:
    data = from_episodes(episodes, "random")
    config = replace(TINY, updates=2, batch_size=4)
    values = train_values(data, config, seed=0)
    assert all(parameter.isfinite().all() for parameter in values.parameters())


def test_observation_units_do_not_matter_after_normalization() -> None:
    """Without a common scale the same data in millimetres would train another network."""
    data = small_dataset()
    scaled = replace(
        data,
        observations=1000 * data.observations + 5,
        next_observations=1000 * data.next_observations + 5,
    )
    config = replace(TINY, updates=5)
    one, other = (train_values(d, config, seed=0) for d in (data, scaled))
    torch.testing.assert_close(
        one.v(data.observations), other.v(scaled.observations), rtol=1e-3, atol=1e-3
    )
    raw = train_values(data, config, seed=0, normalize_observations=False)
    assert not torch.allclose(raw.v(data.observations), one.v(data.observations), atol=1e-3)


def test_dropout_regularizes_the_actor_in_training_only() -> None:
    config = replace(TINY, actor_dropout=0.5, updates=3)
    values = train_values(small_dataset(), config, seed=0)
    states = torch.randn(6, 2)
    assert torch.equal(values.policy(states), values.policy(states))
    values.train()
    assert not torch.equal(values.policy(states), values.policy(states))
    assert torch.equal(values.v(states), values.v(states))


def test_target_networks_follow_slowly() -> None:
    """After one update the target has moved by target_rate of the way."""
    config = replace(TINY, updates=1)
    data = small_dataset()
    still = train_values(data, replace(config, target_rate=0.0), seed=0)
    moved = train_values(data, replace(config, target_rate=0.25), seed=0)
    for start, end, online in zip(
        still.q_target.parameters(),
        moved.q_target.parameters(),
        moved.q_net.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(end, start + 0.25 * (online - start))
    assert not same_bits(still.q_target, moved.q_target)


def test_diagnosis_by_hand() -> None:
    """V = 20 everywhere, rewards 1: a terminated episode of two steps and a truncated one."""
    two = np.zeros((3, 2))
    data = from_episodes(
        [Episode(two, np.zeros((2, 1)), np.ones(2), ends) for ends in (True, False)], "by hand"
    )
    values = constant_values(v=20.0)
    found = diagnose(values, data, discount=0.5)
    assert found.v_mean == found.v_lowest == found.v_highest == 20.0
    assert found.monte_carlo_mean == 1.25  # (1.5 + 1) / 2, the truncated episode does not count
    assert (found.bound_low, found.bound_high) == (1.0, 2.0)
    assert found.violation == 18.0
    endless = from_episodes([Episode(two, np.zeros((2, 1)), np.ones(2), False)], "endless")
    assert math.isnan(diagnose(values, endless, 0.5).monte_carlo_mean)


@given(rows=st.integers(1, 40), size=st.integers(1, 50))
def test_chunks_change_nothing(rows: int, size: int) -> None:
    x, y = torch.arange(rows, dtype=torch.float32), torch.ones(rows)
    assert torch.equal(in_chunks(lambda a, b: F.relu(a - b), x, y, size=size), F.relu(x - y))
