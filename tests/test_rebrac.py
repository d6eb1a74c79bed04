"""ReBRAC's two losses by hand, its special case, and the next action of the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ipd_lite.paper.training import Checkpoint
from ipd_lite.paper.values import ValueConfig
from ipd_lite.rivals.cloning import ClonedPolicy
from ipd_lite.rivals.critics import TwinQ
from ipd_lite.rivals.rebrac import (
    ReBRACConfig,
    rebrac_critic_loss,
    rebrac_policy_loss,
    train_rebrac,
    with_next_action,
)
from ipd_lite.rivals.td3bc import TD3BCConfig, td3bc_critic_loss
from tests.helpers import Killed, KilledCheckpoint, same_bits, small_dataset

CONFIG = ValueConfig(
    updates=12, width=8, fourier_features=0, batch_size=16, evaluations=2, clip_targets=False
)


def parts() -> tuple[TwinQ, ClonedPolicy]:
    torch.manual_seed(0)
    return TwinQ(CONFIG, 2, 2), ClonedPolicy(CONFIG, 2, 2)


def critic(weight: float, recorded: float = 1.0) -> torch.Tensor:
    q, policy = parts()
    batch = small_dataset().batch(torch.arange(20))
    following = torch.full((20, 2), 0.3)
    bounds = (torch.tensor(-1e9), torch.tensor(1e9))
    return rebrac_critic_loss(
        q,
        policy,
        batch,
        following,
        torch.full((20,), recorded),
        CONFIG,
        ReBRACConfig(critic_weight=weight, target_noise=0.0),
        bounds,
        torch.Generator().manual_seed(0),
    )[0]


def test_the_target_pays_for_actions_away_from_the_data() -> None:
    q, policy = parts()
    batch = small_dataset().batch(torch.arange(20))
    action = policy(batch.next_observations).clamp(-1, 1)
    penalty = (action - 0.3).square().sum(-1)
    ahead = q.lowest_target(batch.next_observations, action) - 2.0 * penalty
    target = batch.rewards + CONFIG.discount * batch.continues * ahead
    members = q(batch.observations, batch.actions)
    expected = (target - members).square().mean(1).sum()
    torch.testing.assert_close(critic(2.0), expected)


def test_without_a_penalty_the_critic_is_that_of_td3bc() -> None:
    q, policy = parts()
    batch = small_dataset().batch(torch.arange(20))
    bounds = (torch.tensor(-1e9), torch.tensor(1e9))
    plain, _ = td3bc_critic_loss(
        q,
        policy,
        batch,
        CONFIG,
        TD3BCConfig(target_noise=0.0),
        bounds,
        torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(critic(0.0), plain)
    # Where no next action was recorded there is nothing to stay near to.
    torch.testing.assert_close(critic(2.0, recorded=0.0), plain)


def test_policy_loss_by_hand() -> None:
    q, policy = parts()
    batch = small_dataset().batch(torch.arange(20))
    action = policy(batch.observations)
    value = q(batch.observations, action).amin(0)
    expected = 0.1 * (action - batch.actions).square().sum(-1).mean()
    expected = expected - value.mean() / value.abs().mean()
    torch.testing.assert_close(rebrac_policy_loss(q, policy, batch, 0.1), expected)


def test_the_next_action_never_comes_from_another_episode() -> None:
    data = small_dataset()
    # An action that names its row.
    data = replace(data, actions=torch.arange(len(data))[:, None].float().repeat(1, 2) / len(data))
    batch, following, recorded = with_next_action(data, 500, torch.Generator().manual_seed(0))
    row = (batch.actions[:, 0] * len(data)).round().long()
    assert torch.equal(recorded == 0, data.last[row])
    inner = recorded == 1
    torch.testing.assert_close(following[inner], data.actions[row[inner] + 1])


def test_same_seed_same_policy_and_a_killed_run_continues(tmp_path: Path) -> None:
    data = small_dataset()

    def train(checkpoint: Checkpoint | None = None) -> ClonedPolicy:
        return train_rebrac(data, CONFIG, ReBRACConfig(), seed=3, checkpoint=checkpoint)[0]

    whole = train()
    assert same_bits(whole, train())
    path = tmp_path / "partial.safetensors"
    with pytest.raises(Killed):
        train(KilledCheckpoint(path, every=3, kill_at=8))
    assert same_bits(whole, train(Checkpoint(path, every=3, log_every=1)))


def test_weights_are_checked() -> None:
    with pytest.raises(ValueError, match=r"rebrac\.actor_weight"):
        ReBRACConfig(actor_weight=-1.0)
