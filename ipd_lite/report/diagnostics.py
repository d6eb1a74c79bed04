"""Looking inside: the learned parts against the truth that only a simulator has.

Everything here is for reports and figures. Training never sees it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import mannwhitneyu, spearmanr
from torch import Tensor

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.imagination import Continuations, imagined_return
from ipd_lite.paper.nets import in_chunks
from ipd_lite.paper.uncertainty import inside_threshold
from ipd_lite.paper.values import Values
from ipd_lite.paper.world_model import WorldModel
from ipd_lite.report.oracle import solve_time_to_goal
from ipd_lite.tasks.mazes import GOAL_RADIUS, Array, Geometry, geometry, make_point_maze
from ipd_lite.tasks.snapshots import ENVIRONMENTS
from ipd_lite.tasks.task import MazeRecipe, Task


class MazeSimulator:
    """The true maze as a function: set a state, hold an action for one decision, read the state."""

    def __init__(self, maze: str) -> None:
        self.env = make_point_maze(maze, goal=False)
        self.env.reset(seed=0)
        self.point: Any = self.env.unwrapped.point_env  # type: ignore[attr-defined]

    def step(self, observations: Array, actions: Array) -> Array:
        """Next observations (B, 4) for observations (B, 4) and actions (B, 2)."""
        result = np.empty_like(observations)
        for i, (state, action) in enumerate(zip(observations, actions, strict=True)):
            self.point.set_state(state[:2], state[2:])
            result[i] = self.env.step(action)[0]["observation"]
        return result

    def follow(self, observation: Array, actions: Array) -> tuple[Array, Array]:
        """Observations (T + 1, 4) and rewards (T,) of `actions` (T, 2), played open-loop."""
        self.point.set_state(observation[:2], observation[2:])
        path = [observation]
        for action in actions:
            path.append(self.env.step(action)[0]["observation"])
        return np.stack(path), np.full(len(actions), -1.0)


class RobotSimulator:
    """Hopper, HalfCheetah or Walker2d as a function: set an observed state, play actions, look.

    An observation holds every joint's angle and velocity, but not how far the robot has run, which
    changes nothing. Hopper and Walker2d clip their velocities to 10 in it, so that a state in very
    fast motion begins a little slower than it was.
    """

    def __init__(self, environment: str) -> None:
        self.robot: Any = gym.make(environment).unwrapped
        self.robot.reset(seed=0)

    def follow(self, observation: Array, actions: Array) -> tuple[Array, Array]:
        """Observations (T + 1, O) and rewards (T,) of `actions` (T, A), played open-loop."""
        angles = self.robot.model.nq - 1
        here = np.concatenate([np.zeros(1), observation[:angles]])
        self.robot.set_state(here, observation[angles:])
        path, rewards = [observation], []
        for action in actions:
            following, reward, *_ = self.robot.step(action)
            path.append(following)
            rewards.append(float(reward))
        return np.stack(path), np.array(rewards)


def simulator_of(task: Task) -> MazeSimulator | RobotSimulator:
    """The task's true dynamics.

    Raises:
        ValueError: the state of the task's simulator cannot be set from an observation.
    """
    if isinstance(task.recipe, MazeRecipe):
        return MazeSimulator(task.recipe.maze)
    if task.environment in ENVIRONMENTS.values():
        return RobotSimulator(task.environment)
    raise ValueError(f"{task.name}: no simulator whose state can be set from an observation")


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy().astype(np.float64)


@dataclass(frozen=True)
class ValueMap:
    """V and the exact V* at rest over a maze (P,), their Spearman correlation over data states."""

    positions: Array
    learned: Array
    exact: Array
    spearman: float


@torch.no_grad()
def value_map(task: Task, values: Values, dataset: OfflineDataset, discount: float) -> ValueMap:
    """Learned V beside the exact V* of the discretized maze, velocity included."""
    exact = solve_time_to_goal(maze_of(task).name)
    grid = np.concatenate([exact.points, np.zeros_like(exact.points)], axis=1)
    as_tensor = torch.as_tensor(grid, dtype=torch.float32, device=dataset.device)
    states = dataset.observations[:: max(1, len(dataset) // 10_000)]
    truth = exact.value(_numpy(states), discount)
    correlation = spearmanr(truth, _numpy(in_chunks(values.v, states))).statistic
    return ValueMap(
        exact.points, _numpy(values.v(as_tensor)), exact.value(grid, discount), float(correlation)
    )


@dataclass(frozen=True)
class ModelReport:
    """U against the true one-step error of the ensemble's mean (metres and metres per second,
    Euclidean in units of the data's deviation per dimension).

    observations (B, 4), uncertainty (B,), error (B,), on_data (B,) bool, standardized (B', 4):
    (truth - mean) / predicted deviation per member-averaged Gaussian on held-out data.
    auroc: how well U finds the worst decile of errors.
    """

    observations: Array
    uncertainty: Array
    error: Array
    on_data: NDArray[np.bool_]
    standardized: Array
    auroc: float


@torch.no_grad()
def model_report(
    task: Task, world_model: WorldModel, holdout: OfflineDataset, seed: int, count: int = 2_000
) -> ModelReport:
    """Half held-out (s, a), a quarter held-out s with uniform actions, a quarter all uniform:
    free positions, velocities up to 5 m/s, actions. `count` is a multiple of four."""
    maze = maze_of(task)
    generator = np.random.default_rng(seed)
    index = torch.as_tensor(generator.integers(len(holdout), size=count // 2))
    states = _numpy(holdout.observations[index.to(holdout.device)])
    actions = _numpy(holdout.actions[index.to(holdout.device)])
    free = maze.centres[generator.integers(len(maze.centres), size=count // 4)]
    strange = np.concatenate(
        [free + generator.uniform(-0.4, 0.4, free.shape), generator.uniform(-5, 5, free.shape)], 1
    )
    observations = np.concatenate([states, states[: count // 4], strange])
    taken = np.concatenate([actions, generator.uniform(-1, 1, (count // 2, 2))])
    truth = MazeSimulator(maze.name).step(observations, taken)
    s = torch.as_tensor(observations, dtype=torch.float32, device=holdout.device)
    a = torch.as_tensor(taken, dtype=torch.float32, device=holdout.device)
    means, variances = world_model.predict(s, a)
    scale = _numpy(world_model.target_deviation[: s.shape[1]])
    error = np.linalg.norm((_numpy(means.mean(0)) - truth) / scale, axis=1)
    doubt = _numpy(world_model.uncertainty(s, a))
    half = count // 2
    deviation = np.sqrt(_numpy(variances))[:, :half]
    standardized = ((truth[None, :half] - _numpy(means)[:, :half]) / deviation).reshape(-1, 4)
    worst = error >= np.quantile(error, 0.9)
    statistic = mannwhitneyu(doubt[worst], doubt[~worst]).statistic
    on_data = np.arange(count) < half
    return ModelReport(
        observations,
        doubt,
        error,
        on_data,
        standardized,
        float(statistic / (worst.sum() * (~worst).sum())),
    )


@dataclass(frozen=True)
class OpenLoopReport:
    """Recorded actions played in the model alone: the largest U on the way and the error at the
    end (Euclidean, in deviations of the data's steps), both (P,)."""

    uncertainty: Array
    error: Array


@torch.no_grad()
def open_loop_report(
    world_model: WorldModel, holdout: OfflineDataset, seed: int, steps: int, count: int = 1_000
) -> OpenLoopReport:
    """`steps` recorded actions from held-out states through the ensemble's mean, against what was
    recorded; needs no simulator, so it serves every task.

    Raises:
        ValueError: no held-out episode has that many steps.
    """
    pool = (holdout.remaining >= steps).nonzero().squeeze(1)
    if not len(pool):
        raise ValueError(f"no held-out episode has {steps} steps")
    chosen = np.random.default_rng(seed).integers(len(pool), size=count)
    first = pool[torch.as_tensor(chosen, device=pool.device)]
    state = holdout.observations[first]
    doubt = torch.zeros(count, device=state.device)
    for step in range(steps):
        action = holdout.actions[first + step]
        doubt = torch.maximum(doubt, world_model.uncertainty(state, action))
        state = world_model.predict(state, action)[0].mean(0)
    scale = world_model.target_deviation[: state.shape[1]]
    wrong = ((state - holdout.next_observations[first + steps - 1]) / scale).norm(dim=1)
    return OpenLoopReport(_numpy(doubt), _numpy(wrong))


@dataclass(frozen=True)
class Replay:
    """Imagined continuations replayed open-loop in the simulator, (B,) each.

    uncertainty: largest U of the continuation. imagined, real: discounted gain over V(s) at the
    start, as the model imagined it and as the simulator has it. distance: between the imagined and
    the real final state; metres in a maze, else deviations of the data over all entries.
    """

    uncertainty: Array
    imagined: Array
    real: Array
    distance: Array


@dataclass(frozen=True)
class _Truth:
    """What the simulator makes of imagined actions: observations (B, T + 1, O), rewards and
    terminated (B, T)."""

    observations: Tensor
    rewards: Tensor
    terminated: Tensor


def _play(
    task: Task, chosen: Continuations, dataset: OfflineDataset, reward_scale: float
) -> tuple[_Truth, list[Array]]:
    assert task.terminated is not None
    simulator = simulator_of(task)
    starts = _numpy(dataset.observations[chosen.start])
    actions, lengths = _numpy(chosen.actions), chosen.length.cpu().numpy()
    T = actions.shape[1]
    paths, rewards = np.repeat(starts[:, None], T + 1, axis=1), np.zeros((len(starts), T))
    traces = []
    for i, length in enumerate(lengths):
        trace, given = simulator.follow(starts[i], actions[i, :length])
        traces.append(trace)
        paths[i, : length + 1], rewards[i, :length] = trace, given * reward_scale
    true = torch.as_tensor(paths, dtype=torch.float32, device=dataset.device)
    earned = torch.as_tensor(rewards, dtype=torch.float32, device=dataset.device)
    return _Truth(true, earned, task.terminated(true[:, 1:])), traces


def _gains(
    chosen: Continuations, truth: _Truth, length: Tensor, values: Values, discount: float
) -> tuple[Array, Array]:
    """Imagined and real gain (B,) over V(s) of the first `length` steps."""
    begin = values.v(chosen.observations[:, 0])
    dream = imagined_return(
        chosen.observations, chosen.rewards, chosen.terminated, length, values, discount
    )
    ended = truth.terminated
    # After the true end the episode is over: count only the steps up to it.
    first = torch.where(ended.any(1), ended.float().argmax(1) + 1, length)
    real = imagined_return(
        truth.observations, truth.rewards, ended, torch.minimum(first, length), values, discount
    )
    return _numpy(dream - begin), _numpy(real - begin)


@torch.no_grad()
def replay(
    task: Task,
    continuations: Continuations,
    dataset: OfflineDataset,
    values: Values,
    discount: float,
    count: int = 300,
    reward_scale: float = 1.0,
) -> tuple[Replay, list[Array]]:
    """Play imagined actions in the true simulator and compare the gains; also the true paths.

    Args:
        reward_scale: what the simulator's rewards are multiplied by, as `dataset`'s were.
    """
    chosen = continuations.select(slice(0, count))
    truth, traces = _play(task, chosen, dataset, reward_scale)
    dream, real = _gains(chosen, truth, chosen.length, values, discount)
    rows = torch.arange(len(chosen), device=dataset.device)
    steps = torch.arange(chosen.actions.shape[1], device=dataset.device)
    doubt = chosen.uncertainty.masked_fill(steps >= chosen.length[:, None], 0.0).amax(1)
    gap = _numpy(chosen.observations[rows, chosen.length]) - np.stack([t[-1] for t in traces])
    if task.position_dimensions:
        gap = gap[:, list(task.position_dimensions)]
    else:
        gap = gap / _numpy(dataset.observations.std(0))
    return Replay(_numpy(doubt), dream, real, np.linalg.norm(gap, axis=1)), traces


@torch.no_grad()
def gain_by_threshold(
    task: Task,
    loose: Continuations,
    dataset: OfflineDataset,
    values: Values,
    discount: float,
    thresholds: Array,
    least: int = 2,
    reward_scale: float = 1.0,
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Mean imagined and real gain (Q,) of what a gate at each threshold leaves of `loose`.

    A gate cuts each continuation before its first step with a greater U. Those with fewer than
    `least` steps left do not count; the third result says how many do.
    """
    truth, _ = _play(task, loose, dataset, reward_scale)
    imagined, real, counts = [], [], []
    for threshold in thresholds:
        passed = inside_threshold(loose.uncertainty, float(threshold), cumulative=False)
        length = torch.minimum(passed.sum(1), loose.length)
        dream, gained = _gains(loose, truth, length, values, discount)
        kept = (length >= least).cpu().numpy()
        counts.append(int(kept.sum()))
        imagined.append(float(dream[kept].mean()) if kept.any() else np.nan)
        real.append(float(gained[kept].mean()) if kept.any() else np.nan)
    return np.array(imagined), np.array(real), np.array(counts)


def maze_of(task: Task) -> Geometry:
    """The task's maze.

    Raises:
        ValueError: the task is not a maze.
    """
    if not isinstance(task.recipe, MazeRecipe):
        raise ValueError(f"task {task.name} is not a maze; this diagnostic needs one")
    return geometry(task.recipe.maze)


def stitch(
    observations: list[Array], start: Array, goal: Array, radius: float = 0.2
) -> list[Array]:
    """Fewest pieces of different recordings that lead from `start` to the goal of a maze.

    A piece may follow another where their states nearly meet: positions (metres) and a fifth of the
    velocities (metres per second) lie within `radius`. Breadth-first over recordings.

    Args:
        observations: (T + 1, 4) per episode. start: (4,). goal: (2,).

    Returns:
        Positions (L, 2) of the pieces in order.

    Raises:
        ValueError: no chain of recordings leads there.
    """
    scale = np.array([1.0, 1.0, 0.2, 0.2])
    states = np.concatenate(observations) * scale
    episode = np.repeat(np.arange(len(observations)), [len(o) for o in observations])
    step = np.concatenate([np.arange(len(o)) for o in observations])
    near = cKDTree(states)
    arrived = np.linalg.norm(states[:, :2] - goal, axis=1) <= GOAL_RADIUS
    offsets = np.arange(len(states)) - step
    entered: dict[int, tuple[int, int, int]] = {}  # recording: from, leaving it at, entering at
    queue: deque[int] = deque()

    def enter(rows: list[int], origin: int, leaving: int) -> None:
        for row in rows:
            number = int(episode[row])
            if number not in entered:
                entered[number] = (origin, leaving, int(step[row]))
                queue.append(number)

    enter(near.query_ball_point(start * scale, radius), -1, -1)
    while queue:
        number = queue.popleft()
        first = entered[number][2]
        begin = int(offsets[np.searchsorted(episode, number)]) + first
        rows = range(begin, begin + len(observations[number]) - first)
        ends = [row for row in rows if arrived[row]]
        if ends:
            pieces, leaving = [], int(step[ends[0]])
            while number >= 0:
                origin, left_at, first = entered[number]
                pieces.append(observations[number][first : leaving + 1, :2])
                number, leaving = origin, left_at
            return pieces[::-1]
        for row in rows:
            enter(near.query_ball_point(states[row], radius), number, int(step[row]))
    raise ValueError("no chain of recordings leads from there to the goal; widen the radius")
