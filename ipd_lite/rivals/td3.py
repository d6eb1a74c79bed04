"""What TD3+BC and ReBRAC share: TD3's loop (Fujimoto et al. 2018), without its environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ipd_lite.paper.dataset import Batch, OfflineDataset
from ipd_lite.paper.training import (
    Checkpoint,
    Snapshots,
    average_into,
    seeded,
    set_learning_rate,
)
from ipd_lite.paper.values import ValueConfig, value_bounds
from ipd_lite.rivals.cloning import ClonedPolicy
from ipd_lite.rivals.critics import TwinQ

Bounds = tuple[Tensor, Tensor]
CriticLoss = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""(q, target policy, *drawn, bounds, generator) -> loss and what to log."""
PolicyLoss = Callable[[TwinQ, ClonedPolicy, Batch], Tensor]


def smoothed_action(
    target_policy: ClonedPolicy,
    batch: Batch,
    deviation: float,
    clip: float,
    generator: torch.Generator,
) -> Tensor:
    """The target policy's action (B, A) at s', plus clipped noise."""
    noise = torch.empty_like(batch.actions).normal_(generator=generator) * deviation
    return (target_policy(batch.next_observations) + noise.clamp(-clip, clip)).clamp(-1, 1)


def squared_error(q: TwinQ, batch: Batch, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared distance of Q from its target (B,), summed over the twins, and what to log."""
    members = q(batch.observations, batch.actions)
    loss = (target - members).square().mean(1).sum()
    return loss, {"q_loss": loss.detach(), "q_mean": members.detach().mean()}


def train_td3(
    name: str,
    dataset: OfflineDataset,
    config: ValueConfig,
    draw: Callable[[torch.Generator], tuple[Batch, *tuple[Tensor, ...]]],
    critic_loss: CriticLoss,
    policy_loss: PolicyLoss,
    policy_delay: int,
    *,
    seed: int,
    position_dimensions: Sequence[int] = (),
    checkpoint: Checkpoint | None = None,
) -> tuple[ClonedPolicy, Snapshots, TwinQ]:
    """Train Q and, every `policy_delay` updates, the policy and the target networks.

    Returns:
        the policy, its snapshots along the way, and Q.

    Raises:
        FloatingPointError: a loss became NaN or infinite.
    """
    checkpoint = checkpoint or Checkpoint.none()
    device = dataset.device
    with seeded(seed, device):
        q = TwinQ(config, *dataset.widths, position_dimensions).to(device)
        policy = ClonedPolicy(config, *dataset.widths).to(device)
        q.features.fit(dataset.observations)
        policy.features.fit(dataset.observations)
        target_policy = ClonedPolicy(config, *dataset.widths).to(device)
        target_policy.load_state_dict(policy.state_dict())
        snapshots = Snapshots(policy, config.evaluations, config.updates).to(device)
        critic = torch.optim.Adam(q.online.parameters(), lr=config.learning_rate, fused=True)
        actor = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, fused=True)
        generator = torch.Generator(device).manual_seed(seed)
        bounds = value_bounds(dataset.rewards, config.discount)
        modules = {"q": q, "policy": policy, "target_policy": target_policy, "snapshots": snapshots}
        for step in checkpoint.steps(
            name,
            config.updates,
            modules=modules,
            optimizers={"critic": critic, "actor": actor},
            generators={"batches": generator},
        ):
            drawn = draw(generator)
            loss, logs = critic_loss(q, target_policy, *drawn, bounds, generator)
            set_learning_rate(critic, step, config)
            critic.zero_grad(set_to_none=True)
            loss.backward()
            critic.step()
            if step % policy_delay == 0:
                improved = policy_loss(q, policy, drawn[0])
                set_learning_rate(actor, step, config)
                actor.zero_grad(set_to_none=True)
                improved.backward(inputs=list(policy.parameters()))
                actor.step()
                average_into(q.target, q.online, config.target_rate)
                average_into(target_policy, policy, config.target_rate)
                logs["policy_loss"] = improved.detach()
            snapshots.keep(step, policy)
            checkpoint.log(step, logs)
    return policy.eval().requires_grad_(False), snapshots, q.eval().requires_grad_(False)
