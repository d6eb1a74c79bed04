"""Section 3.3, Algorithm 1: better continuations, planned in imagination, become data.

From suboptimal states the planner looks ahead in the world model, takes the first action of its
plan, moves one imagined step, and plans again (receding horizon). A continuation stops where the
ensemble disagrees more than the threshold; what passed is spliced behind the real steps that led
there: D_aug = real episodes + (real prefix, imagined continuation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ipd_lite.paper.dataset import OfflineDataset, concatenate
from ipd_lite.paper.nets import in_chunks
from ipd_lite.paper.planning import Model, PlannerConfig, plan
from ipd_lite.paper.shortfall import bootstrapped_returns, shortfall, suboptimal_steps
from ipd_lite.paper.support import Gate, passes
from ipd_lite.paper.training import AS_WRITTEN, Compute, accelerated, require
from ipd_lite.paper.uncertainty import inside_threshold
from ipd_lite.paper.values import Values
from ipd_lite.paper.world_model import WorldModel


@dataclass(frozen=True)
class ImaginationConfig:
    """Section 3.3, Algorithm 1: where to start, when to stop, what to keep."""

    starts: int = 6_000
    """Imagined continuations; scaled by the augmentation-amount ablation."""
    suboptimal_fraction: float = 0.5  # PAPER SILENT
    """Steps whose shortfall lies in this upper fraction of the data count as suboptimal."""
    bootstrap_steps: int = 5
    """Steps of the bootstrapped return that V is compared with, and that tokens are made of."""
    length: int = 15
    """Longest imagined continuation, in steps."""
    min_length: int = 2
    quantile: float | None = 0.9  # PAPER SILENT
    """Threshold of U: this quantile over held-out real (s, a); None = no gate (an ablation)."""
    cumulative: bool = False
    """Gate the running sum of U (threshold times the steps so far) instead of each step's U."""
    improvement: float = 0.0
    """A continuation is kept only if its bootstrapped return beats the real one by this much."""
    require_improvement: bool = False
    support_quantile: float | None = None  # PAPER SILENT
    """A continuation ends at its last state that is as near to recorded states as this quantile of
    held-out ones (`support.py`); None = wherever the gate on U stops it."""
    neighbours: int = 5
    """Nearest recorded states that the distance is averaged over."""

    def __post_init__(self) -> None:
        support = self.support_quantile is None or 0 < self.support_quantile <= 1
        require(support, "imagination.support_quantile", self.support_quantile, "0 < q <= 1")
        gate = self.quantile is None or 0 < self.quantile <= 1
        require(gate, "imagination.quantile", self.quantile, "0 < q <= 1, or None for no gate")
        require(self.length >= 1, "imagination.length", self.length, "at least 1")
        require(self.min_length >= 1, "imagination.min_length", self.min_length, "at least 1")


P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Assessment:
    """The data as the value function sees it, all (N,): V(s), the bootstrapped return of the
    recorded steps, their difference, and whether a step counts as suboptimal."""

    values: Tensor
    bootstrapped: Tensor
    shortfall: Tensor
    suboptimal: Tensor


@torch.no_grad()
def assess(
    dataset: OfflineDataset, values: Values, config: ImaginationConfig, discount: float
) -> Assessment:
    """Compare V with the bootstrapped return at every recorded step."""
    v = in_chunks(values.v, dataset.observations)
    next_v = in_chunks(values.v, dataset.next_observations)
    returns = bootstrapped_returns(
        dataset.rewards, dataset.terminated, dataset.last, v, next_v,
        min(config.bootstrap_steps, int(dataset.lengths.max())), discount,
    )  # fmt: skip
    gap = shortfall(v, returns)
    return Assessment(v, returns, gap, suboptimal_steps(gap, config.suboptimal_fraction))


def planning_model(
    values: Values,
    world_model: WorldModel,
    config: PlannerConfig,
    discount: float,
    generator: torch.Generator,
    compute: Compute = AS_WRITTEN,
) -> Model:
    """The planner's callables: proposals around the advantage-weighted policy, the ensemble's mean
    dynamics, and V beyond the horizon.

    `compute.autocast` holds for them; they are never compiled, their number of rows changes.
    """

    def fast(function: Callable[P, R]) -> Callable[P, R]:
        return accelerated(function, generator.device, compute._replace(compile=False))

    policy = fast(values.policy)

    def propose(states: Tensor, depth: int) -> Tensor:
        mean = policy(states).to(states.dtype)
        scale = config.first_noise if depth == 0 else config.later_noise
        return mean + scale * torch.empty_like(mean).normal_(generator=generator)

    return Model(
        propose=propose,
        step=fast(world_model.step),
        value=fast(values.v),
        discount=discount,
        q=fast(values.q),
    )


@torch.no_grad()
def plan_in_chunks(
    states: Tensor, model: Model, config: PlannerConfig, generator: torch.Generator, size: int = 256
) -> Tensor:
    """Planned actions (B, A) for states (B, S), `size` at a time so that rows fit the cache."""
    return in_chunks(lambda s: plan(s, model, config, generator).action, states, size=size)


@dataclass(frozen=True)
class Continuations:
    """B imagined continuations of at most T steps.

    start: (B,) transition of the real dataset whose observation the continuation begins at.
    observations (B, T + 1, O), actions (B, T, A), rewards, uncertainty (B, T), terminated (B, T)
    bool. length: (B,) steps that passed both gates. gain: (B,) imagined bootstrapped return minus
    the real one from the same state.
    """

    start: Tensor
    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    uncertainty: Tensor
    length: Tensor
    gain: Tensor

    def __len__(self) -> int:
        return len(self.start)

    def select(self, keep: Tensor | slice) -> Continuations:
        """The continuations at `keep` (indices, mask or slice)."""
        return Continuations(**{name: value[keep] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Bookkeeping:
    """What became of the starts: counts of continuations, then steps (threshold None: no gate)."""

    starts: int
    accepted: int
    rejected_short: int
    rejected_not_better: int
    stopped_by_gate: int
    reached_end: int
    imagined_steps: int
    threshold: float | None
    mean_length: float
    mean_gain: float
    rejected_unsupported: int = 0
    """Long enough for the gate on U, but not up to a state whose value can be trusted."""


def choose_starts(assessment: Assessment, starts: int, generator: torch.Generator) -> Tensor:
    """Suboptimal transitions (B,) to continue from; none if no step is suboptimal."""
    (pool,) = torch.nonzero(assessment.suboptimal, as_tuple=True)
    if not len(pool):
        return pool
    # Every step once before any comes twice.
    rounds = -(-starts // len(pool))
    order = [
        torch.randperm(len(pool), generator=generator, device=pool.device) for _ in range(rounds)
    ]
    return pool[torch.cat(order)[:starts]] if rounds else pool[:0]


Paths = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Observations (B, T + 1, O), actions (B, T, A), rewards, terminated and U (B, T)."""


def imagined_paths(
    states: Tensor,
    choose: Callable[[Tensor], Tensor],
    step: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    threshold: Tensor,
    config: ImaginationConfig,
    actions: int,
    progress: bool = False,
) -> Paths:
    """The loop of Algorithm 1 from `states` (B, O): plan, step, until U is too large or it ends.

    `choose` plans actions for states, `step` gives next states, rewards, terminated and U of both;
    an action has `actions` entries.
    """
    count, length = len(states), config.length
    observations = states[:, None].repeat(1, length + 1, 1)
    taken = states.new_zeros(count, length, actions)
    rewards = states.new_zeros(count, length)
    terminated = torch.zeros_like(rewards, dtype=torch.bool)
    # Steps that are never imagined count as unknown: they fail every threshold.
    uncertainty = torch.full_like(rewards, torch.inf)
    active = torch.arange(count, device=states.device)
    for t in tqdm(range(length), desc="imagine", unit="step", disable=not progress):
        if not len(active):
            break
        action = choose(observations[active, t])
        following, reward, ended, doubt = step(observations[active, t], action)
        observations[active, t + 1], taken[active, t] = following, action
        rewards[active, t], terminated[active, t], uncertainty[active, t] = reward, ended, doubt
        passed = inside_threshold(uncertainty[active, : t + 1], threshold, config.cumulative)
        active = active[passed[:, -1] & ~ended]
    return observations, taken, rewards, terminated, uncertainty


@torch.no_grad()
def imagine(
    dataset: OfflineDataset,
    start: Tensor,
    values: Values,
    world_model: WorldModel,
    planner: PlannerConfig,
    config: ImaginationConfig,
    *,
    threshold: Tensor,
    assessment: Assessment,
    discount: float,
    seed: int,
    gate: Gate | None = None,
    compute: Compute = AS_WRITTEN,
    progress: bool = False,
    loop: Callable[..., Paths] = imagined_paths,
) -> Continuations:
    """Continuations from transitions `start` (B,), cut back to where `gate` trusts V.

    `compute` holds for the planner alone: the steps that become data, and U, are float32 as the
    threshold is. `loop` takes the place of :func:`imagined_paths`.
    """
    generator = torch.Generator(dataset.device).manual_seed(seed)
    model = planning_model(values, world_model, planner, discount, generator, compute)
    observations, actions, rewards, terminated, uncertainty = loop(
        dataset.observations[start],
        lambda states: plan_in_chunks(states, model, planner, generator),
        lambda states, action: world_model.step_with_uncertainty(states, action, generator),
        threshold, config, dataset.actions.shape[1], progress,
    )  # fmt: skip
    assert observations.shape == (len(start), config.length + 1, dataset.observations.shape[1])
    passed = inside_threshold(uncertainty, threshold, config.cumulative)
    kept = trusted_length(observations, terminated, passed.sum(1), gate)
    gain = imagined_return(observations, rewards, terminated, kept, values, discount)
    gain = gain - assessment.bootstrapped[start]
    return Continuations(start, observations, actions, rewards, terminated, uncertainty, kept, gain)


def trusted_length(
    observations: Tensor, terminated: Tensor, length: Tensor, gate: Gate | None
) -> Tensor:
    """Steps (B,) up to the last state whose value can be trusted, of the first `length` (B,).

    Where the task ended there is no value to trust: all of them.
    """
    if gate is None or not length.any():
        return length
    steps = torch.arange(1, terminated.shape[1] + 1, device=length.device)
    inside = steps <= length[:, None]
    trusted = inside.clone()
    trusted[inside] = passes(gate, observations[:, 1:][inside])
    return torch.where((terminated & inside).any(1), length, (steps * trusted).amax(1))


def imagined_return(
    observations: Tensor,
    rewards: Tensor,
    terminated: Tensor,
    length: Tensor,
    values: Values,
    discount: float,
) -> Tensor:
    """Discounted return (B,) of the first `length` imagined steps, then V unless terminated."""
    steps = torch.arange(rewards.shape[1], device=rewards.device)
    inside = steps < length[:, None]
    total = (rewards * inside * discount**steps).sum(1)
    rows = torch.arange(len(length), device=length.device)
    ended = (terminated & inside).any(1)
    beyond = discount**length * values.v(observations[rows, length])
    return total + torch.where(ended, 0.0, beyond)


def accept(
    continuations: Continuations, config: ImaginationConfig, threshold: Tensor
) -> tuple[Continuations, Bookkeeping]:
    """Keep continuations that are long enough (or ended) and, if asked, better than the data."""
    rows = torch.arange(len(continuations), device=continuations.start.device)
    final = (continuations.length - 1).clamp_min(0)
    ended = continuations.terminated[rows, final] & (continuations.length > 0)
    known = inside_threshold(continuations.uncertainty, threshold, config.cumulative).sum(1)
    short = ~ended & (known < config.min_length)
    unsupported = ~ended & ~short & (continuations.length < config.min_length)
    better = torch.ones_like(ended)
    if config.require_improvement:
        better = continuations.gain > config.improvement
    kept = continuations.select(~short & ~unsupported & better)
    book = Bookkeeping(
        starts=len(continuations),
        accepted=len(kept),
        rejected_short=int(short.sum()),
        rejected_unsupported=int(unsupported.sum()),
        rejected_not_better=int((~short & ~unsupported & ~better).sum()),
        stopped_by_gate=int((~ended & (known < continuations.actions.shape[1])).sum()),
        reached_end=int(ended.sum()),
        imagined_steps=int(kept.length.sum()),
        threshold=float(threshold) if threshold < torch.inf else None,
        mean_length=float(kept.length.float().mean()) if len(kept) else 0.0,
        mean_gain=float(kept.gain.mean()) if len(kept) else 0.0,
    )
    return kept, book


def splice(dataset: OfflineDataset, kept: Continuations, prefix: int) -> OfflineDataset:
    """Episodes of up to `prefix` real steps followed by the imagined ones, flagged as such.

    The prefix gives the transformer the context in which the continuation would begin. It never
    reaches back beyond the real episode's first step.
    """
    before = torch.minimum(dataset.step[kept.start], torch.tensor(prefix, device=dataset.device))
    lengths = before + kept.length
    number = torch.repeat_interleave(torch.arange(len(kept), device=dataset.device), lengths)
    first = torch.cumsum(lengths, 0) - lengths
    position = torch.arange(len(number), device=dataset.device) - first[number]
    real = position < before[number]
    row = (kept.start[number] - before[number] + position).clamp_max(len(dataset) - 1)
    step = (position - before[number]).clamp_min(0)

    def pick(recorded: Tensor, imagined: Tensor) -> Tensor:
        mask = real.reshape(-1, *([1] * (recorded.dim() - 1)))
        return torch.where(mask, recorded[row], imagined[number, step])

    return OfflineDataset(
        observations=pick(dataset.observations, kept.observations[:, :-1]),
        actions=pick(dataset.actions, kept.actions),
        rewards=pick(dataset.rewards, kept.rewards),
        next_observations=pick(dataset.next_observations, kept.observations[:, 1:]),
        terminated=pick(dataset.terminated, kept.terminated),
        imagined=~real,
        starts=first,
        lengths=lengths,
        name=f"{dataset.name}+imagined",
        earlier=dataset.time[kept.start] - before,
    )


def augment(dataset: OfflineDataset, spliced: OfflineDataset) -> OfflineDataset:
    """D_aug: the real episodes first, then the spliced ones."""
    return concatenate([dataset, spliced], f"{dataset.name}+imagined")
