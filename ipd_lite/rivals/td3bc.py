"""TD3+BC (Fujimoto & Gu 2021): squared error to the data's action minus lambda Q(s, pi(s))."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ipd_lite.paper.dataset import Batch, OfflineDataset
from ipd_lite.paper.training import (
    Checkpoint,
    Snapshots,
    average_into,
    require,
    seeded,
    set_learning_rate,
)
from ipd_lite.paper.values import ValueConfig, bellman_target, value_bounds
from ipd_lite.rivals.cloning import ClonedPolicy
from ipd_lite.rivals.critics import TwinQ


def smoothed_action(
    target_policy: ClonedPolicy,
    batch: Batch,
    deviation: float,
    clip: float,
    generator: torch.Generator,
) -> Tensor:
    """The target policy's action (B, A) at s', plus clipped noise (TD3, Fujimoto et al. 2018)."""
    noise = torch.empty_like(batch.actions).normal_(generator=generator) * deviation
    return (target_policy(batch.next_observations) + noise.clamp(-clip, clip)).clamp(-1, 1)


def td3bc_critic_loss(
    q: TwinQ,
    target_policy: ClonedPolicy,
    batch: Batch,
    config: ValueConfig,
    td3bc: TD3BCConfig,
    bounds: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared Bellman error, summed over the twins; the target action carries clipped noise."""
    with torch.no_grad():
        next_action = smoothed_action(
            target_policy, batch, td3bc.target_noise, td3bc.noise_clip, generator
        )
        next_q = q.lowest_target(batch.next_observations, next_action)
        target = bellman_target(batch, next_q, config, bounds)
    members = q(batch.observations, batch.actions)
    loss = (target - members).square().mean(1).sum()
    return loss, {"q_loss": loss.detach(), "q_mean": members.detach().mean()}


def td3bc_policy_loss(q: TwinQ, policy: ClonedPolicy, batch: Batch, alpha: float) -> Tensor:
    """mean |pi - a|^2 - lambda * mean Q1(s, pi), lambda = alpha / mean |Q1| without gradient."""
    action = policy(batch.observations)
    value = q(batch.observations, action)[0]
    scale = alpha / value.detach().abs().mean().clamp_min(1e-6)
    return (action - batch.actions).square().mean() - scale * value.mean()


def train_td3bc(
    dataset: OfflineDataset,
    config: ValueConfig,
    td3bc: TD3BCConfig,
    *,
    seed: int,
    position_dimensions: Sequence[int] = (),
    checkpoint: Checkpoint | None = None,
) -> tuple[ClonedPolicy, Snapshots, TwinQ]:
    """Train TD3+BC; returns the policy, its snapshots along the way, and Q.

    Raises:
        FloatingPointError: a loss became NaN or infinite.
    """
    checkpoint = checkpoint or Checkpoint.none()
    device = dataset.device
    observations, actions = dataset.observations.shape[1], dataset.actions.shape[1]
    with seeded(seed, device):
        q = TwinQ(config, observations, actions, position_dimensions).to(device)
        policy = ClonedPolicy(config, observations, actions).to(device)
        q.features.fit(dataset.observations)
        policy.features.fit(dataset.observations)
        target_policy = ClonedPolicy(config, observations, actions).to(device)
        target_policy.load_state_dict(policy.state_dict())
        snapshots = Snapshots(policy, config.evaluations, config.updates).to(device)
        critic = torch.optim.Adam(q.online.parameters(), lr=config.learning_rate, fused=True)
        actor = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, fused=True)
        generator = torch.Generator(device).manual_seed(seed)
        bounds = value_bounds(dataset.rewards, config.discount)
        for step in checkpoint.steps(
            "td3bc", config.updates,
            modules={
                "q": q, "policy": policy, "target_policy": target_policy, "snapshots": snapshots,
            },
            optimizers={"critic": critic, "actor": actor}, generators={"batches": generator},
        ):  # fmt: skip
            batch = dataset.sample(config.batch_size, generator)
            loss, logs = td3bc_critic_loss(
                q, target_policy, batch, config, td3bc, bounds, generator
            )
            set_learning_rate(critic, step, config)
            critic.zero_grad(set_to_none=True)
            loss.backward()
            critic.step()
            if step % td3bc.policy_delay == 0:
                policy_loss = td3bc_policy_loss(q, policy, batch, td3bc.alpha)
                set_learning_rate(actor, step, config)
                actor.zero_grad(set_to_none=True)
                policy_loss.backward(inputs=list(policy.parameters()))
                actor.step()
                average_into(q.target, q.online, config.target_rate)
                average_into(target_policy, policy, config.target_rate)
                logs["policy_loss"] = policy_loss.detach()
            snapshots.keep(step, policy)
            checkpoint.log(step, logs)
    return policy.eval().requires_grad_(False), snapshots, q.eval().requires_grad_(False)


@dataclass(frozen=True)
class TD3BCConfig:
    """Baseline: TD3+BC (Fujimoto & Gu 2021); sizes, rates and updates are those of `values`."""

    alpha: float = 2.5
    """Weight of Q against cloning, divided by the batch mean of |Q|."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's action (range [-1, 1])."""
    noise_clip: float = 0.5
    policy_delay: int = 2
    """Updates of Q per update of the policy and of the target networks."""

    def __post_init__(self) -> None:
        require(self.policy_delay >= 1, "td3bc.policy_delay", self.policy_delay, "at least 1")
