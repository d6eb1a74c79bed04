"""Section 3.4, inference: policies that act for many episodes at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ipd_lite.paper.imagination import plan_in_chunks, planning_model
from ipd_lite.paper.planning import PlannerConfig
from ipd_lite.paper.training import AS_WRITTEN, Compute
from ipd_lite.paper.transformer import TransformerPolicy
from ipd_lite.paper.values import Values
from ipd_lite.paper.world_model import WorldModel


class TransformerActor:
    """Acts with the last K steps of every episode; conditions on V(s) or on a target return.

    Args:
        values: gives V(s) for the token; None = `target` minus the rewards so far.
        target: undiscounted return asked for at the start of an episode, in recorded units.
        reward_scale, reward_shift: rewards were multiplied by the one after the other was added
            when the policy was trained (the target counts the shift already).
        seen: least and greatest return-to-go that the policy was trained on, in its units. What is
            left of a target is kept inside: with a reward of -1 a step it would grow without end.
        more: asked for beyond V(s), in units of return (`ask.py` chooses it).
    """

    def __init__(
        self,
        policy: TransformerPolicy,
        *,
        values: Values | None = None,
        target: float | None = None,
        timestep: str = "window",
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        seen: tuple[float, float] = (-math.inf, math.inf),
        more: float = 0.0,
    ) -> None:
        if (values is None) == (target is None):
            raise ValueError("give either values (V(s) as condition) or a target return, not both")
        self.policy, self.values, self.timestep = policy, values, timestep
        self.target, self.reward_scale, self.reward_shift = target, reward_scale, reward_shift
        self.seen, self.more = seen, more

    def begin(self, slots: int) -> None:
        """Empty histories for `slots` parallel episodes."""
        policy = self.policy
        device, K = policy.observation_mean.device, policy.context
        self.observations = torch.zeros(slots, K, len(policy.observation_mean), device=device)
        self.actions = torch.zeros(slots, K, policy.head.out_features, device=device)
        self.conditions = torch.zeros(slots, K, device=device)
        self.length = torch.zeros(slots, dtype=torch.long, device=device)
        self.time = torch.zeros(slots, dtype=torch.long, device=device)
        self.wanted = torch.full((slots,), self.target or 0.0, device=device)

    def reset(self, rows: Tensor) -> None:
        """New episodes begin in slots `rows`."""
        self.length[rows] = 0
        self.time[rows] = 0
        self.wanted[rows] = self.target or 0.0

    @torch.no_grad()
    def act(self, observations: Tensor, rewards: Tensor, rows: Tensor) -> Tensor:
        """Actions (B, A) for slots `rows` (B,), whose last rewards were `rewards` (B,)."""
        K = self.policy.context
        # The token after a reward asks for what is left of the target.
        self.wanted[rows] -= torch.where(self.time[rows] > 0, rewards + self.reward_shift, 0.0)
        full = rows[self.length[rows] == K]
        for history in (self.observations, self.actions, self.conditions):
            history[full] = history[full].roll(-1, dims=1)
        self.length[rows] = (self.length[rows] + 1).clamp_max(K)
        at = self.length[rows] - 1
        if self.values is None:
            condition = (self.reward_scale * self.wanted[rows]).clamp(*self.seen)
        else:
            condition = self.values.v(observations) + self.more
        self.observations[rows, at], self.conditions[rows, at] = observations, condition
        steps = torch.arange(K, device=rows.device).expand(len(rows), K)
        if self.timestep == "episode":
            most = self.policy.embed_timestep.num_embeddings - 1
            steps = (steps + (self.time[rows] - at)[:, None]).clamp(0, most)
        predicted = self.policy(
            self.conditions[rows], self.observations[rows], self.actions[rows], steps
        )
        action = predicted[torch.arange(len(rows), device=rows.device), at]
        self.actions[rows, at] = action
        self.time[rows] += 1
        return action


class Actor(Protocol):
    """A policy with memory, for many episodes at once."""

    def begin(self, slots: int) -> None:
        """Prepare for `slots` parallel episodes."""

    def reset(self, rows: Tensor) -> None:
        """New episodes begin in slots `rows` (B,) int64."""

    def act(self, observations: Tensor, rewards: Tensor, rows: Tensor) -> Tensor:
        """Actions (B, A) in [-1, 1] for observations (B, O) in slots `rows`; `rewards` (B,) are
        those of the previous step (0 at the start)."""


class FunctionActor:
    """An actor without memory: `function` maps observations (B, O) to actions (B, A)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def begin(self, slots: int) -> None:
        """Nothing to prepare."""

    def reset(self, rows: Tensor) -> None:
        """Nothing to forget."""

    @torch.no_grad()
    def act(self, observations: Tensor, rewards: Tensor, rows: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(observations)


class PlanningActor:
    """MPC acting directly in the environment: a policy for `tasks.rollout.rollout`."""

    def __init__(
        self,
        values: Values,
        world_model: WorldModel,
        planner: PlannerConfig,
        discount: float,
        seed: int,
        compute: Compute = AS_WRITTEN,
    ) -> None:
        self.config, self.seed = planner, seed
        self.generator = torch.Generator(world_model.target_mean.device)
        self.model = planning_model(values, world_model, planner, discount, self.generator, compute)

    def begin(self, slots: int) -> None:
        """Start over with the same random numbers."""
        self.generator.manual_seed(self.seed)

    def reset(self, rows: Tensor) -> None:
        """Nothing to forget."""

    @torch.no_grad()
    def act(self, observations: Tensor, rewards: Tensor, rows: Tensor) -> Tensor:
        """Planned actions (B, A)."""
        return plan_in_chunks(observations, self.model, self.config, self.generator)
