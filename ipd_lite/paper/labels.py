"""Planned first actions at recorded observations: plans that become data without imagined states.

From a recorded state every candidate takes another first action and then follows the policy. What
counts is the *gain* over the policy's own first action in the same ensemble member under the same
noise, so that the errors which both share cancel. Of the candidates that end on support (see
`support.py`) the best few are averaged; the mean is then tried in *every* member, which removes the
winner's curse of having been the best in one. It replaces the policy's own action only if that
gain is positive, every step of it is inside the gate on the dynamics, and its end on support.

PAPER SILENT: section 3.3 splices whole continuations; relabelling recorded states alone is what
PAR (2026) does without a model, and LOOP (Sikchi et al. 2020) has the proposals around a policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ipd_lite.paper.dataset import OfflineDataset, concatenate
from ipd_lite.paper.distillation import Examples
from ipd_lite.paper.imagination import Continuations, splice
from ipd_lite.paper.nets import in_chunks
from ipd_lite.paper.planning import PlannerConfig
from ipd_lite.paper.support import Gate, passes
from ipd_lite.paper.uncertainty import inside_threshold
from ipd_lite.paper.values import Values
from ipd_lite.paper.world_model import WorldModel

CHUNK = 256
"""States planned for at once: their rows fit the cache."""


@dataclass(frozen=True)
class Labels:
    """B recorded states with the action that a student should take there.

    start: (B,) transition of the dataset. actions: (B, A), planned where `improved` (B,) bool, else
    the policy's own. gain: (B,) promised gain over the policy's own action, 0 where that is kept.
    following: (B, O), rewards, terminated, uncertainty (B,): the imagined first step.
    tried: (B,) the gain of the best plan before any gate (not finite: none).
    """

    start: Tensor
    actions: Tensor
    improved: Tensor
    gain: Tensor
    following: Tensor
    rewards: Tensor
    terminated: Tensor
    uncertainty: Tensor
    tried: Tensor

    def __len__(self) -> int:
        return len(self.start)

    def select(self, keep: Tensor | slice) -> Labels:
        """The labels at `keep` (indices, mask or slice)."""
        return Labels(**{name: value[keep] for name, value in vars(self).items()})

    def as_continuations(self, dataset: OfflineDataset) -> Continuations:
        """Continuations of one step, for `imagine.splice` and `diagnostics.replay`."""
        here = dataset.observations[self.start]
        return Continuations(
            start=self.start,
            observations=torch.stack([here, self.following], dim=1),
            actions=self.actions[:, None],
            rewards=self.rewards[:, None],
            terminated=self.terminated[:, None],
            uncertainty=self.uncertainty[:, None],
            length=torch.ones_like(self.start),
            gain=self.gain,
        )


@dataclass(frozen=True)
class Trial:
    """R imagined futures: score (R,), end (R, O), terminated (R,) bool; the first step's outcome
    and U per step (R, H), infinite where it was not measured."""

    score: Tensor
    end: Tensor
    terminated: Tensor
    first: tuple[Tensor, Tensor, Tensor]
    uncertainty: Tensor


@dataclass(frozen=True)
class Planner:
    """What planning needs, gathered once.

    threshold: largest U of a step. gate: where plans may end, None = anywhere.
    generator: draws all noise.
    """

    values: Values
    world_model: WorldModel
    config: PlannerConfig
    discount: float
    threshold: Tensor
    gate: Gate | None
    generator: torch.Generator

    @property
    def members(self) -> int:
        """Elites, E."""
        return len(self.world_model.elites)

    def imagine(self, states: Tensor, actions: Tensor, noise: Tensor, measure: bool) -> Trial:
        """Take `actions` (E, N, B, A) in states (B, O), then follow the policy, in every elite.

        Args:
            noise: (H - 1, B, A), added to the policy: the same for all futures of a state.
            measure: also U of every step (all members look at all rows).
        """
        members, tried, count, _ = actions.shape
        repeat = members * tried
        rows, action = states.repeat(repeat, 1), actions.flatten(0, 2)
        score = torch.zeros(len(rows), device=states.device)
        weight = torch.ones_like(score)
        doubt = torch.full((len(rows), self.config.horizon), torch.inf, device=states.device)
        first = None
        for depth in range(self.config.horizon):
            if measure:
                doubt[:, depth] = self.world_model.uncertainty(rows, action)
            rows, reward, ended = self.world_model.step(rows, action)
            first = first or (rows, reward, ended)
            # Beyond the terminal step nothing counts, not even a NaN.
            over = weight == 0
            score = torch.where(over, score, score + weight * reward)
            doubt[:, depth] = torch.where(over, 0.0, doubt[:, depth])
            weight = weight * self.discount * (~ended).float()
            if depth < len(noise):
                action = (self.values.policy(rows) + noise[depth].repeat(repeat, 1)).clamp(-1, 1)
        score = torch.where(weight > 0, score + weight * self.values.v(rows), score)
        assert first is not None and len(rows) == repeat * count
        return Trial(score, rows, weight == 0, first, doubt)

    def ends_inside(self, trial: Trial) -> Tensor:
        """Futures (R,) bool whose end has a value that can be trusted: none is needed where the
        task ended, elsewhere the gate decides."""
        return trial.terminated | passes(self.gate, trial.end)


@torch.no_grad()
def plan_first_actions(states: Tensor, planner: Planner) -> dict[str, Tensor]:
    """Labels for states (B, O): every tensor of :class:`Labels` but `start`."""
    config, members, count = planner.config, planner.members, len(states)
    own = planner.values.policy(states)
    each = max(1, config.candidates // members)
    draw = noise_like(own, planner.generator)
    noise = torch.stack([draw((count,)) for _ in range(config.horizon - 1)] or [own[:0]])
    noise = config.later_noise * noise if config.horizon > 1 else own.new_zeros(0, *own.shape)
    proposals = own + config.first_noise * draw((members, each, count))
    actions = torch.cat([own.expand(members, 1, -1, -1), proposals.clamp(-1, 1)], dim=1)
    trial = planner.imagine(states, actions, noise, measure=False)
    score = trial.score.reshape(members, each + 1, count)
    inside = planner.ends_inside(trial).reshape(score.shape)[:, 1:].flatten(0, 1)
    gain = (score[:, 1:] - score[:, :1]).flatten(0, 1)
    gain = torch.where(gain.isfinite(), gain, -torch.inf)
    best = mean_of_best(actions[:, 1:].flatten(0, 1), gain, inside & (gain > 0), config.top)
    found, planned = best
    return verified(states, own, torch.where(found[:, None], planned, own), noise, planner) | {
        "tried": gain.amax(0)
    }


def noise_like(own: Tensor, generator: torch.Generator) -> Callable[[tuple[int, ...]], Tensor]:
    """Standard Gaussian draws of shape (*leading, A)."""

    def draw(leading: tuple[int, ...]) -> Tensor:
        empty = torch.empty(*leading, own.shape[-1], device=own.device)
        return empty.normal_(generator=generator)

    return draw


def mean_of_best(actions: Tensor, gain: Tensor, allowed: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Whether any of N actions (N, B, A) is allowed (B,), and the mean (B, A) of the `top` allowed
    ones with the greatest gain (N, B), of fewer where fewer are allowed."""
    ranked = gain.masked_fill(~allowed, -torch.inf)
    value, best = ranked.topk(min(top, len(gain)), dim=0)
    chosen = actions.gather(0, best[..., None].expand(-1, -1, actions.shape[-1]))
    weight = (value > -torch.inf).float()[..., None]
    mean = (chosen * weight).sum(0) / weight.sum(0).clamp_min(1)
    return allowed.any(0), mean


def verified(
    states: Tensor, own: Tensor, planned: Tensor, noise: Tensor, planner: Planner
) -> dict[str, Tensor]:
    """Try `planned` (B, A) against `own` in every elite; keep it where it gains inside both gates.

    The gain is the mean over elites. A step's U and the end's distance must pass in every elite.
    """
    members, count = planner.members, len(states)
    pair = torch.stack([own, planned]).expand(members, -1, -1, -1)
    trial = planner.imagine(states, pair, noise, measure=True)
    score = trial.score.reshape(members, 2, count)
    gain = (score[:, 1] - score[:, 0]).mean(0)
    known = inside_threshold(trial.uncertainty, planner.threshold, cumulative=False)[:, -1]
    trusted = (known & planner.ends_inside(trial)).reshape(members, 2, count)[:, 1].all(0)
    improved = trusted & gain.isfinite() & (gain > 0)
    following, reward, ended = (
        x.reshape(members, 2, count, *x.shape[1:])[:, improved.long(), torch.arange(count)]
        for x in trial.first
    )
    doubt = trial.uncertainty[:, 0].reshape(members, 2, count)
    return {
        "actions": torch.where(improved[:, None], planned, own),
        "improved": improved,
        "gain": torch.where(improved, gain, 0.0),
        # One elite's future, as everywhere: the mean of five different ones is nobody's.
        "following": following[0],
        "rewards": reward[0],
        "terminated": ended[0],
        "uncertainty": doubt[0, improved.long(), torch.arange(count)],
    }


@torch.no_grad()
def label(dataset: OfflineDataset, start: Tensor, planner: Planner) -> Labels:
    """Planned first actions at transitions `start` (B,) of the recorded `dataset`."""
    if not len(start):
        raise ValueError("no recorded state to label")
    parts = [plan_first_actions(dataset.observations[rows], planner) for rows in start.split(CHUNK)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Labels(start=start, **joined)


@torch.no_grad()
def with_labels(
    examples: Examples, recorded: OfflineDataset, labels: Labels, values: Values, prefix: int
) -> Examples:
    """The examples and, behind them, every label as a window: up to `prefix` recorded steps, then
    the planned action, which alone is regressed on.

    The token of a label is what its plan promises, V(s) + gain; those before it are V(s), as the
    policy will have asked at inference.
    """
    planned = splice(recorded, labels.as_continuations(recorded), prefix)
    v = in_chunks(values.v, planned.observations)
    final = planned.starts + planned.lengths - 1
    promised = v.index_add(0, final, labels.gain)
    nothing = torch.zeros(len(planned), dtype=torch.bool, device=v.device)
    count = len(examples.dataset)
    return Examples(
        dataset=concatenate([examples.dataset, planned], examples.dataset.name),
        conditions=torch.cat([examples.conditions, promised]),
        weights=torch.cat([examples.weights, planned.imagined.float()]),
        spliced=torch.cat([examples.spliced, nothing]),
        baseline=torch.cat([examples.baseline, v]),
        labelled=torch.cat([nothing.new_zeros(count), ~nothing]),
    )
