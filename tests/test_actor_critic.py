"""TD3+BC and CQL against closed forms, brute force over a grid, and a tabular corridor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.paper.dataset import Batch, OfflineDataset
from ipd_lite.paper.values import ValueConfig
from ipd_lite.rivals.cloning import ClonedPolicy
from ipd_lite.rivals.cql import (
    CQLConfig,
    EntropyWeight,
    SquashedGaussian,
    conservative_penalty,
    cql_critic_loss,
    log_integral,
    soft_policy_loss,
    train_cql,
)
from ipd_lite.rivals.critics import TwinQ
from ipd_lite.rivals.td3bc import TD3BCConfig, td3bc_critic_loss, td3bc_policy_loss, train_td3bc
from tests.helpers import GAMMA, Killed, KilledCheckpoint, same_bits, small_dataset
from tests.test_iql import CELLS, TINY, WIDE, chain_dataset, one_step_dataset

SHORT = replace(TINY, updates=30, batch_size=16, evaluations=2)
Trained = tuple[nn.Module, nn.Module, TwinQ]


def td3bc(dataset: OfflineDataset, config: ValueConfig = SHORT, **more: Any) -> Trained:
    changes = {key: more.pop(key) for key in ("alpha", "policy_delay") if key in more}
    return train_td3bc(dataset, config, TD3BCConfig(**changes), **{"seed": 0, **more})


def cql(dataset: OfflineDataset, config: ValueConfig = SHORT, **more: Any) -> Trained:
    changes = {"samples": 4} | {k: more.pop(k) for k in ("weight", "samples") if k in more}
    return train_cql(dataset, config, CQLConfig(**changes), **{"seed": 0, **more})


both = pytest.mark.parametrize("train", [td3bc, cql])


# -- what both have in common ----------------------------------------------------------------------


@both
def test_same_seed_same_bits_and_snapshots_end_at_the_policy(train: Callable[..., Trained]) -> None:
    data = small_dataset()
    policy, snapshots, q = train(data)
    again, other = train(data), train(data, seed=1)
    assert same_bits(policy, again[0]) and same_bits(q, again[2])
    assert not same_bits(policy, other[0])
    assert not any(p.requires_grad for part in (policy, q) for p in part.parameters())
    snapshots.restore(0, again[0])  # type: ignore[operator]
    assert not same_bits(policy, again[0])
    snapshots.restore(1, again[0])  # type: ignore[operator]
    assert same_bits(policy, again[0])


@both
@pytest.mark.parametrize("kill_at", [9, 29])
def test_killed_training_ends_in_the_same_bits(
    train: Callable[..., Trained], kill_at: int, tmp_path: Path
) -> None:
    data, path = small_dataset(), tmp_path / "partial.safetensors"
    expected = train(data)

    def attempt(kill_at: int) -> Trained:
        return train(data, checkpoint=KilledCheckpoint(path, every=4, kill_at=kill_at))

    with pytest.raises(Killed):
        attempt(kill_at)
    assert path.exists()
    for found, wanted in zip(attempt(-1), expected, strict=True):
        assert same_bits(found, wanted)


@both
@pytest.mark.parametrize(("terminated", "expected"), [(True, 1.0), (False, 1 / (1 - GAMMA))])
def test_only_termination_stops_bootstrapping(
    train: Callable[..., Trained], terminated: bool, expected: float
) -> None:
    """Reward 1 for ever behind a cut recording, whatever the policy does: 1 / (1 - gamma)."""
    config = replace(TINY, updates=300, target_rate=0.5)
    more = {"weight": 0.0} if train is cql else {}
    q = train(one_step_dataset(terminated), config, **more)[2]
    found = q(torch.eye(2), torch.zeros(2, 1))
    torch.testing.assert_close(found, torch.full((2, 2), expected), atol=0.1 * expected, rtol=0)


@both
def test_policy_walks_to_the_goal_by_stitching_short_walks(train: Callable[..., Trained]) -> None:
    more = {"alpha": 20.0} if train is td3bc else {"weight": 1.0}
    policy = train(chain_dataset(length=3), replace(TINY, updates=400), **more)[0]
    assert (policy(CELLS) > 0.2).all()


# -- TD3+BC ----------------------------------------------------------------------------------------


def constant_q(value: float) -> TwinQ:
    q = TwinQ(TINY, 2, 1)
    for parameter in q.parameters():
        nn.init.zeros_(parameter)
    for network in (q.online, q.target):
        nn.init.constant_(network.head.bias, value)
    return q


def random_batch(size: int = 64, actions: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    taken = normal(size, actions).tanh()
    return Batch(normal(size, 2), taken, normal(size), normal(size, 2), torch.ones(size))


@pytest.mark.parametrize("value", [7.0, -0.01])
def test_lambda_makes_q_worth_alpha_whatever_its_scale(value: float) -> None:
    """Q constant: lambda mean(Q) = alpha * sign(Q) exactly."""
    policy, batch = ClonedPolicy(TINY, 2, 1), random_batch()
    cloning = (policy(batch.observations) - batch.actions).square().mean()
    loss = td3bc_policy_loss(constant_q(value), policy, batch, alpha=2.5)
    torch.testing.assert_close(loss, cloning - 2.5 * np.sign(value))


def test_policy_gradient_is_cloning_minus_lambda_times_the_slope_of_q() -> None:
    torch.manual_seed(0)
    policy, q, batch = ClonedPolicy(TINY, 2, 1), TwinQ(TINY, 2, 1), random_batch()

    def gradient(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(policy.parameters())))

    action = policy(batch.observations)
    value = q(batch.observations, action)[0]
    weight = 2.5 / float(value.detach().abs().mean())
    cloning = gradient((action - batch.actions).square().mean())
    slope = gradient(q(batch.observations, policy(batch.observations))[0].mean())
    found = gradient(td3bc_policy_loss(q, policy, batch, alpha=2.5))
    for one, two, three in zip(found, cloning, slope, strict=True):
        torch.testing.assert_close(one, two - weight * three)


def test_without_q_the_policy_is_a_clone() -> None:
    """alpha = 0: the mean of two recorded actions."""
    episodes = [
        Episode(np.ones((2, 1)), np.array([[a]]), np.array([r]), True)
        for a, r in ((-0.2, 0.0), (0.6, 1.0))
    ]
    data = from_episodes(episodes, "bandit")
    assert float(td3bc(data, replace(TINY, updates=300), alpha=0.0)[0](torch.ones(1, 1))) == (
        pytest.approx(0.2, abs=0.05)
    )
    assert float(td3bc(data, replace(TINY, updates=300), alpha=20.0)[0](torch.ones(1, 1))) > 0.6


def test_policy_and_targets_move_every_third_update() -> None:
    data = small_dataset()
    after = {
        updates: td3bc(
            data,
            replace(SHORT, updates=updates, evaluations=1, final_learning_rate=1.0),
            policy_delay=3,
        )
        for updates in (1, 3, 4)
    }
    assert same_bits(after[1][0], after[3][0]) and not same_bits(after[3][0], after[4][0])
    assert same_bits(after[1][2].target, after[3][2].target)
    assert not same_bits(after[3][2].target, after[4][2].target)
    assert not same_bits(after[1][2].online, after[3][2].online)


@pytest.mark.parametrize(("noise", "clip"), [(0.2, 0.5), (5.0, 0.3), (0.0, 0.5)])
def test_target_action_carries_clipped_noise_inside_the_bounds(noise: float, clip: float) -> None:
    seen: list[Tensor] = []

    class Watched(TwinQ):
        def lowest_target(self, observations: Tensor, actions: Tensor) -> Tensor:
            seen.append(actions)
            return super().lowest_target(observations, actions)

    policy = ClonedPolicy(TINY, 2, 1)
    for parameter in policy.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(policy.net.head.bias, float(np.arctanh(0.8)))
    config = TD3BCConfig(target_noise=noise, noise_clip=clip)
    td3bc_critic_loss(
        Watched(TINY, 2, 1),
        policy,
        random_batch(2_000),
        TINY,
        config,
        WIDE,
        torch.Generator().manual_seed(0),
    )
    action = seen[0]
    assert action.max() <= 1.0 and action.min() >= 0.8 - clip - 1e-6
    if noise == 0.2:
        unclipped = action[action < 0.999]
        assert 0.6 < float(unclipped.mean()) < 0.8
    if noise == 5.0:
        assert float((action - 0.5).abs().min()) < 1e-6 and float(action.max()) == 1.0
    if noise == 0.0:
        torch.testing.assert_close(action, torch.full_like(action, 0.8))


def test_td3bc_target_takes_the_smaller_twin_by_hand() -> None:
    """r = 2, gamma = 0.9, twins say 5 and 3: 2 + 0.9 * 3 = 4.7; a terminal step: 2."""
    q = constant_q(0.0)
    with torch.no_grad():
        q.target.head.bias[:, 0, 0] = torch.tensor([5.0, 3.0])
    batch = random_batch()._replace(rewards=torch.full((64,), 2.0))
    for continues, target in ((1.0, 4.7), (0.0, 2.0)):
        given = batch._replace(continues=torch.full((64,), continues))
        loss, _ = td3bc_critic_loss(
            q, ClonedPolicy(TINY, 2, 1), given, TINY, TD3BCConfig(), WIDE, torch.Generator()
        )
        assert float(loss.detach()) == pytest.approx(2 * target**2, rel=1e-5)


# -- CQL -------------------------------------------------------------------------------------------


def test_log_density_against_torchs_transformed_distribution() -> None:
    torch.manual_seed(0)
    policy = SquashedGaussian(TINY, 3, 2)
    states = torch.randn(7, 3)
    actions, found = policy.sample(states, 5, torch.Generator().manual_seed(0))
    mean, log_deviation = policy.distribution(states)
    reference = TransformedDistribution(
        Independent(Normal(mean, log_deviation.exp()), 1), [TanhTransform()]
    )
    assert actions.shape == (5, 7, 2) and (actions.abs() <= 1).all()
    torch.testing.assert_close(found, reference.log_prob(actions), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(policy(states), torch.tanh(mean))


def test_log_density_stays_finite_where_tanh_rounds_to_one() -> None:
    policy = SquashedGaussian(TINY, 3, 2)
    nn.init.constant_(policy.net.head.bias, 40.0)
    action, density = policy.sample(torch.zeros(4, 3), 3, torch.Generator())
    assert (action == 1.0).any() and density.isfinite().all()


class HillQ(nn.Module):
    """Q known in closed form: -(a - 0.3)^2 * 4 + the state's first entry, twins one apart."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()

    def online(self, inputs: Tensor) -> Tensor:
        state, action = inputs[:, 0], inputs[:, -1]
        value = state - 4 * (action - 0.3).square()
        return torch.stack([value, value + 1])[..., None]


def brute_force(state: Tensor) -> Tensor:
    """log of the integral of exp Q over actions in [-1, 1], trapezoids on a fine grid."""
    grid = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    hill = (-4 * (grid - 0.3).square()).exp()
    return state + torch.trapezoid(hill, grid).log().float()


@pytest.mark.parametrize("deviation", [0.3, 1.0])
def test_penalty_is_the_log_integral_by_brute_force(deviation: float) -> None:
    torch.manual_seed(0)
    policy = SquashedGaussian(TINY, 2, 1)
    nn.init.zeros_(policy.net.head.weight)
    with torch.no_grad():
        policy.net.head.bias[0, 0] = torch.tensor([0.2, np.log(deviation)])
    batch = random_batch(size=8)
    members = torch.stack([batch.rewards, batch.rewards + 2])
    found = conservative_penalty(
        HillQ(),
        policy,
        batch,
        members,
        20_000,
        torch.Generator().manual_seed(0),  # type: ignore[arg-type]
    )
    exact = brute_force(batch.observations[:, 0])
    expected = (torch.stack([exact, exact + 1]) - members).mean(1).sum()
    assert float(found) == pytest.approx(float(expected), abs=0.03)


def test_log_integral_of_a_constant_over_the_square_is_exact() -> None:
    """Uniform proposals on [-1, 1]^2 and Q = 3: log(4 e^3), whatever the number of samples."""
    found = log_integral(torch.full((2, 5, 3), 3.0), torch.full((5, 3), -2 * np.log(2)))
    torch.testing.assert_close(found, torch.full((2, 3), 3 + float(np.log(4))))


def bandit(low: float, high: float) -> OfflineDataset:
    """One state, terminal, reward = action; actions evenly from [low, high]."""
    return from_episodes(
        [
            Episode(np.ones((2, 1)), np.array([[a]]), np.array([a]), True)
            for a in np.linspace(low, high, 200)
        ],
        "bandit",
    )


def test_q_of_a_bandit_is_the_conservative_fixed_point() -> None:
    """Where p is the softmax density of Q and u the data's: Q = r - weight / 2 (p / u - 1).

    The policy is held nearly uniform: it only proposes, and covers every action.
    """
    grid = np.linspace(-1, 1, 401)
    weight, expected = 2.0, grid.copy()
    for _ in range(2_000):
        density = np.exp(expected) / np.trapezoid(np.exp(expected), grid)
        expected += 0.1 * (grid - weight / 2 * (density / 0.5 - 1) - expected)
    torch.manual_seed(0)
    q, policy, generator = TwinQ(TINY, 1, 1), SquashedGaussian(TINY, 1, 1), torch.Generator()
    nn.init.zeros_(policy.net.head.weight)
    with torch.no_grad():
        policy.net.head.bias[0, 0] = torch.tensor([0.0, np.log(0.9)])
    data = bandit(-1, 1)
    batch, optimizer = data.batch(torch.arange(len(data))), torch.optim.Adam(q.parameters(), 0.01)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 400)
        loss, _ = cql_critic_loss(
            q, policy, batch, TINY, CQLConfig(weight, samples=10), WIDE, generator
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    actions = torch.tensor(grid[20:-20:10], dtype=torch.float32)[:, None]
    learned = q(torch.ones_like(actions), actions).detach().mean(0).numpy()
    np.testing.assert_allclose(learned, expected[20:-20:10], atol=0.08)
    assert np.abs(expected - grid).max() > 0.3  # the penalty is not a detail here


def test_penalty_lowers_q_where_the_data_has_no_actions() -> None:
    data, config = bandit(-1, 0), replace(TINY, updates=150)
    outside, inside = torch.tensor([[0.8]]), torch.tensor([[-0.1]])
    state = torch.ones(1, 1)
    free, conservative = (cql(data, config, weight=weight)[2] for weight in (0.0, 3.0))
    assert (conservative(state, outside) < free(state, outside) - 1.0).all()
    assert (conservative(state, outside) < conservative(state, inside)).all()


def test_critic_and_policy_losses_teach_their_own_networks_only() -> None:
    torch.manual_seed(0)
    q, policy, entropy = TwinQ(TINY, 2, 1), SquashedGaussian(TINY, 2, 1), EntropyWeight()
    batch, generator = random_batch(), torch.Generator().manual_seed(0)
    members = q(batch.observations, batch.actions)
    conservative_penalty(q, policy, batch, members, 3, generator).backward()
    assert all(p.grad is None for p in policy.parameters())
    assert all(p.grad is not None for p in q.online.parameters())
    loss, logs = soft_policy_loss(q, policy, entropy, batch, generator)
    loss.backward()
    assert entropy.logarithm.grad is not None
    # More entropy than wanted (-1 for one action): the weight must fall, and the other way round.
    assert float(entropy.logarithm.grad) == pytest.approx(float(logs["entropy"]) + 1.0, rel=1e-4)
