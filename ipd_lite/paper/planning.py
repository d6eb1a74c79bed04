"""Section 3.3: planners over imagined futures. They know no RL: everything comes as callables.

Shapes: B states are planned for at once, each with N candidates, as R = N * B rows with the
candidates outermost (row = candidate * B + state), so that a model can give each block of rows to
another ensemble member. Non-finite scores never win.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ipd_lite.paper.training import require


@dataclass(frozen=True)
class PlannerConfig:
    """Section 3.3: model-predictive control with a terminal value."""

    kind: Literal["shooting", "greedy-q", "random"] = "shooting"
    candidates: int = 30
    horizon: int = 5
    first_noise: float = 0.5
    """Standard deviation of the noise on a candidate's first action (action range is [-1, 1])."""
    later_noise: float = 0.1
    top: int = 5  # PAPER SILENT
    """The plan is the mean first action of this many best candidates."""

    def __post_init__(self) -> None:
        require(self.horizon >= 1, "planner.horizon", self.horizon, "at least 1")
        expected = f"between 1 and planner.candidates ({self.candidates})"
        require(1 <= self.top <= self.candidates, "planner.top", self.top, expected)


@dataclass(frozen=True)
class Model:
    """What a planner may call.

    propose: (states (R, S), depth) -> actions (R, A), a random guess. step: (states, actions) ->
    (next states (R, S), rewards (R,), terminated (R,) bool). value: states -> (R,), the return
    beyond the horizon. q: (states, actions) -> (R,), needed by "greedy-q" alone.
    low, high: bounds of every action entry.
    """

    propose: Callable[[Tensor, int], Tensor]
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    value: Callable[[Tensor], Tensor]
    discount: float
    q: Callable[[Tensor, Tensor], Tensor] | None = None
    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True)
class Plan:
    """action (B, A): what to do now. candidates (N, B, H, A) and their scores (N, B).
    paths (N, B, H + 1, S): imagined states, if asked for."""

    action: Tensor
    candidates: Tensor
    scores: Tensor
    paths: Tensor | None = None


class PlanningError(ArithmeticError):
    """Too few candidates have a finite score."""


def plan(
    states: Tensor,
    model: Model,
    config: PlannerConfig,
    generator: torch.Generator,
    keep_paths: bool = False,
) -> Plan:
    """Plan for states (B, S) with the configured planner.

    Raises:
        PlanningError: fewer than `config.top` candidates of some state are finite.
        ValueError: "greedy-q" without `model.q`.
    """
    if config.kind == "random":
        return random_action(states, model, generator)
    if config.kind == "greedy-q":
        return greedy_q(states, model, config)
    return random_shooting(states, model, config, keep_paths)


def rollout(
    states: Tensor, model: Model, candidates: int, horizon: int, paths: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Imagine N futures per state: actions (N, B, H, A), scores (N, B), paths or None.

    Score = discounted rewards up to the horizon or the terminal step, plus the discounted value of
    the last state unless the future terminated.
    """
    count, state_width = states.shape
    rows = states.repeat(candidates, 1)
    score = torch.zeros(len(rows), device=states.device, dtype=states.dtype)
    weight = torch.ones_like(score)
    taken, visited = [], [rows]
    for depth in range(horizon):
        action = model.propose(rows, depth).clamp(model.low, model.high)
        rows, reward, terminated = model.step(rows, action)
        # Beyond the terminal step nothing counts: a NaN there would spread through 0 * NaN.
        score = torch.where(weight > 0, score + weight * reward, score)
        weight = weight * model.discount * (~terminated).to(weight.dtype)
        taken.append(action)
        if paths:
            visited.append(rows)
    score = torch.where(weight > 0, score + weight * model.value(rows), score)
    shape = (candidates, count)
    futures = torch.stack(taken, dim=1).reshape(*shape, horizon, -1)
    if not paths:
        return futures, score.reshape(shape), None
    traced = torch.stack(visited, dim=1).reshape(*shape, horizon + 1, state_width)
    return futures, score.reshape(shape), traced


def finite_scores(scores: Tensor, needed: int) -> Tensor:
    """Scores (N, B) with -inf for every non-finite one.

    Raises:
        PlanningError: a state has fewer than `needed` finite scores.
    """
    finite = scores.isfinite()
    fewest = int(finite.sum(0).min())
    if fewest < needed:
        raise PlanningError(
            f"only {fewest} of {len(scores)} candidates have a finite score, {needed} are needed; "
            "the world model or the value function has diverged"
        )
    return scores.masked_fill(~finite, -torch.inf)


def random_shooting(
    states: Tensor, model: Model, config: PlannerConfig, keep_paths: bool = False
) -> Plan:
    """Try proposals once; act with the mean first action of the `top` best.

    The mean of a few good candidates is steadier than the single best, whose score owes more to
    the errors of model and value ("winner's curse").
    """
    actions, scores, paths = rollout(states, model, config.candidates, config.horizon, keep_paths)
    scores = finite_scores(scores, config.top)
    best = scores.topk(config.top, dim=0).indices
    first = actions[:, :, 0].gather(0, best[..., None].expand(-1, -1, actions.shape[-1]))
    return Plan(first.mean(0), actions, scores, paths)


def greedy_q(states: Tensor, model: Model, config: PlannerConfig) -> Plan:
    """The ablation: the candidate action with the greatest Q, no imagined future."""
    if model.q is None:
        raise ValueError("the greedy-q planner needs Model.q")
    rows = states.repeat(config.candidates, 1)
    actions = model.propose(rows, 0).clamp(model.low, model.high)
    scores = model.q(rows, actions).reshape(config.candidates, len(states))
    scores = finite_scores(scores, 1)
    shaped = actions.reshape(config.candidates, len(states), -1)
    best = scores.argmax(0)[None, :, None].expand(1, -1, shaped.shape[-1])
    return Plan(shaped.gather(0, best)[0], shaped[:, :, None], scores)


def random_action(states: Tensor, model: Model, generator: torch.Generator) -> Plan:
    """The other ablation: one uniform action inside the bounds; its score says nothing (0)."""
    action = torch.empty_like(model.propose(states, 0))
    action.uniform_(model.low, model.high, generator=generator)
    return Plan(action, action[None, :, None], torch.zeros_like(states[None, :, 0]))
