"""Segments of suboptimal steps, and imagined stitching made visible."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ipd_lite import plots
from ipd_lite.course.race import steps_to_goal
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.imagination import planning_model
from ipd_lite.paper.planning import Plan, PlannerConfig, plan
from ipd_lite.paper.uncertainty import inside_threshold
from ipd_lite.paper.values import Values
from ipd_lite.paper.world_model import WorldModel
from ipd_lite.report import diagnostics
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.tasks.mazes import GOAL_RADIUS, Array, Geometry


class Segments(NamedTuple):
    """Maximal runs of suboptimal steps inside one episode: first transition (S,), length (S,), and
    the mean shortfall (S,) over the run."""

    first: Tensor
    length: Tensor
    gain: Tensor


def find_segments(suboptimal: Tensor, last: Tensor, shortfalls: Tensor) -> Segments:
    """Group suboptimal steps into segments that never cross the end of an episode."""
    previous_ends = torch.cat([torch.ones_like(last[:1]), last[:-1]])
    previous_marked = torch.cat([torch.zeros_like(suboptimal[:1]), suboptimal[:-1]])
    begins = suboptimal & (previous_ends | ~previous_marked)
    number = begins.long().cumsum(0) - 1
    first = begins.nonzero().squeeze(1)
    member = number[suboptimal]
    length = torch.zeros_like(first).index_add(0, member, torch.ones_like(member))
    total = torch.zeros(len(first), dtype=shortfalls.dtype, device=shortfalls.device)
    gain = total.index_add(0, member, shortfalls[suboptimal]) / length
    return Segments(first, length, gain)


@torch.no_grad()
def onward(
    data: OfflineDataset, values: Values, state: Tensor, pieces: int = 12, radius: float = 0.5
) -> list[Array]:
    """Recordings, one after another, that lead from `state` (O,) to the goal: positions (T, 2).

    From where one piece ends the next is looked for among the recorded states nearby (position and
    velocity, within `radius` of the data's deviations): the one whose recording later reaches the
    greatest V. It is followed up to there. Ends at the goal, after `pieces`, or where nothing near
    is better.
    """
    v, scale = values.v(data.observations), data.observations.std(0)
    best, until = _best_ahead(data, values)
    found: list[Array] = []
    for _ in range(pieces):
        distance = ((data.observations - state) / scale).norm(dim=1)
        (near,) = (distance <= radius).nonzero(as_tuple=True)
        if not len(near):
            break
        chosen = int(near[best[near].argmax()])
        here, stop = values.v(state[None])[0], int(until[chosen])
        if best[chosen] <= here or v[chosen] >= best[chosen]:
            break
        rows = torch.arange(chosen, stop + 1)
        path = torch.cat([data.observations[rows], data.next_observations[stop : stop + 1]])
        found.append(path[:, :2].cpu().numpy().astype(np.float64))
        if data.terminated[stop]:
            break
        state = data.next_observations[stop]
    return found


def _best_ahead(data: OfflineDataset, values: Values) -> tuple[Tensor, Tensor]:
    """Per transition (N,): the greatest V that its recording still reaches, 0 at the goal, and the
    transition that leads there."""
    after = torch.where(data.terminated, 0.0, values.v(data.next_observations))
    best, until = after.clone(), torch.arange(len(data), device=data.device)
    for distance in range(2, int(data.lengths.max()) + 1):
        row = (data.starts + data.lengths - distance)[data.lengths >= distance]
        later = best[row + 1] > best[row]
        best[row] = torch.where(later, best[row + 1], best[row])
        until[row] = torch.where(later, until[row + 1], until[row])
    return best, until


def stitches(pipeline: Pipeline, count: int = 300) -> list[plots.Stitch]:
    """Imagined continuations without a gate, each with all that is needed to see and judge it.

    `Stitch.imagined` goes on beyond the gate; `Stitch.stop` says where the gate stops it.
    """
    data, values = pipeline.dataset, pipeline.values
    loose = pipeline.attempt_without_gate(starts=count)
    _, traces = diagnostics.replay(
        pipeline.task, loose, data, values, pipeline.discount, count=len(loose)
    )
    passed = inside_threshold(loose.uncertainty, pipeline.threshold, cumulative=False).sum(1)
    found = []
    for number, trace in enumerate(traces):
        start, length = int(loose.start[number]), int(loose.length[number])
        stop = min(int(passed[number]), length)
        first = int(data.starts[data.episode[start]])
        last = first + int(data.lengths[data.episode[start]])
        path = loose.observations[number, : length + 1]
        recorded = data.observations[first:last, :2].cpu().numpy().astype(np.float64)
        found.append(
            plots.Stitch(
                prefix=recorded[: start - first + 1],
                rest=recorded[start - first :],
                imagined=path[:, :2].cpu().numpy().astype(np.float64),
                doubt=loose.uncertainty[number, :length].cpu().numpy().astype(np.float64),
                stop=stop,
                replayed=trace[:, :2],
                gain=float(loose.gain[number]),
                end=path[stop].cpu().numpy().astype(np.float64),
            )
        )
    return found


@torch.no_grad()
def planned_steps(pipeline: Pipeline, start: Tensor, limit: int = 15) -> list[plots.PlannedStep]:
    """Algorithm 1 from one state (O,) with everything that the planner looked at on the way.

    Ends with the first step that the gate refuses or that ends the task, or after `limit` steps.
    """
    config, model = pipeline.config.planner, pipeline.world_model
    generator = torch.Generator(start.device).manual_seed(pipeline.seed)
    state, found = start[None], []
    for number in range(limit):
        plan = plan_with_paths(
            state, pipeline.values, model, config, pipeline.discount, pipeline.seed + number
        )
        assert plan.paths is not None
        following, _, ended, doubt = model.step_with_uncertainty(state, plan.action, generator)
        found.append(
            plots.PlannedStep(
                here=_positions(state[0]),
                candidates=_positions(plan.paths[:, 0]),
                best=plan.scores[:, 0].topk(config.top).indices.cpu().numpy(),
                there=_positions(following[0]),
                doubt=float(doubt),
                passes=bool(doubt <= pipeline.threshold),
            )
        )
        if not found[-1].passes or bool(ended):
            break
        state = following
    return found


def _positions(states: Tensor) -> Array:
    return states[..., :2].cpu().numpy().astype(np.float64)


def good_and_bad(found: list[plots.Stitch], maze: Geometry, each: int = 3) -> list[plots.Stitch]:
    """The best plans that the gate lets pass, then the worst that only the gate stops.

    Good: at least ten steps pass, the replay ends within 20 cm; the greatest imagined gains with
    starts at least 1.5 m apart. Bad: the plan goes through a wall, and the replay ends furthest
    from it.
    """

    good = [s for s in found if s.stop >= 10 and miss(s, s.stop) < 0.2]
    bad = [s for s in found if through_wall(s.imagined, maze)]
    good.sort(key=lambda s: -s.gain)
    bad.sort(key=lambda s: -miss(s, len(s.imagined) - 1))
    return _apart(good, each) + _apart(bad, each)


def to_the_goal(
    found: list[plots.Stitch], data: OfflineDataset, values: Values, maze: Geometry
) -> tuple[plots.Stitch, list[Array]]:
    """Of the plans that keep their promise, the one that starts furthest from the goal and from
    whose end recordings lead there; and these recordings.

    The furthest of all, with as many recordings as there are, where no plan does (tiny runs).
    """
    cells = steps_to_goal(maze)
    found = sorted(found, key=lambda s: (-int(cells[maze.cell_of(s.imagined[0])]), -s.gain))
    for stitch in found:
        if stitch.stop >= 10 and miss(stitch, stitch.stop) < 0.2:
            chain = onward(data, values, torch.as_tensor(stitch.end).float().to(data.device))
            if chain and np.linalg.norm(chain[-1][-1] - maze.goal) <= GOAL_RADIUS:
                return stitch, chain
    state = torch.as_tensor(found[0].end).float().to(data.device)
    return found[0], onward(data, values, state)


def miss(stitch: plots.Stitch, step: int) -> float:
    """Distance (m) of the imagined from the true position after `step` steps."""
    return float(np.linalg.norm(stitch.imagined[step] - stitch.replayed[step]))


def through_wall(path: Array, maze: Geometry) -> bool:
    """Whether the ball's centre is inside a wall anywhere on the path (T, 2)."""
    rows, columns = maze.walls.shape
    fine = np.concatenate([path[:-1] + part * np.diff(path, axis=0) for part in (0, 0.5, 1)])
    column = np.floor(fine[:, 0] + columns / 2).astype(int).clip(0, columns - 1)
    row = np.floor(rows / 2 - fine[:, 1]).astype(int).clip(0, rows - 1)
    return bool(maze.walls[row, column].any())


def _apart(stitches: list[plots.Stitch], count: int, metres: float = 1.5) -> list[plots.Stitch]:
    chosen: list[plots.Stitch] = []
    for stitch in stitches:
        start = stitch.imagined[0]
        if all(np.linalg.norm(start - other.imagined[0]) >= metres for other in chosen):
            chosen.append(stitch)
        if len(chosen) == count:
            break
    return chosen


@torch.no_grad()
def plan_with_paths(
    states: Tensor,
    values: Values,
    world_model: WorldModel,
    config: PlannerConfig,
    discount: float,
    seed: int,
) -> Plan:
    """One plan per state with every candidate's imagined path."""
    generator = torch.Generator(states.device).manual_seed(seed)
    model = planning_model(values, world_model, config, discount, generator)
    return plan(states, model, config, generator, keep_paths=True)
