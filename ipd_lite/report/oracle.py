"""The exact optimum of a maze: time to goal by value iteration on a fine grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipd_lite.tasks.mazes import (
    GOAL_RADIUS,
    MAX_SPEED,
    Array,
    Geometry,
    geometry,
    simulate_decision,
    touches_wall,
)


@dataclass(frozen=True)
class TimeToGoal:
    """Least number of decisions to the goal on a grid over position and velocity.

    points: (P, 2) free grid positions; speeds: (W,) grid velocities per axis;
    index: (X, Y) -> point or -1; origin, spacing: the position grid;
    decisions: (P, W, W) float32 tensor, 0 inside the goal.
    """

    maze: Geometry
    points: Array
    speeds: Array
    index: NDArray[np.int64]
    origin: Array
    spacing: float
    decisions: Tensor

    def __call__(self, observations: Array) -> Array:
        """Decisions to the goal from observations (..., 4), by multilinear interpolation."""
        flat = np.asarray(observations, dtype=np.float64).reshape(-1, 4)
        corners, weights = _interpolation(self, flat[:, :2], flat[:, 2:])
        values = self.decisions.reshape(-1).numpy()[corners]
        result: Array = (values * weights).sum(-1).reshape(np.shape(observations)[:-1])
        return result

    def value(self, observations: Array, discount: float) -> Array:
        """V*(s) = -(1 - discount**T) / (1 - discount) for reward -1 per decision, shape (...)."""
        result: Array = -(1 - discount ** self(observations)) / (1 - discount)
        return result


def _interpolation(
    grid: TimeToGoal, position: Array, velocity: Array
) -> tuple[NDArray[np.int64], Array]:
    """The 16 grid neighbours of each state and their weights, (N, 16) and (N, 16)."""
    cell = (position - grid.origin) / grid.spacing
    low = np.floor(cell).astype(np.int64)
    step = grid.speeds[1] - grid.speeds[0]
    speed_cell = (np.clip(velocity, grid.speeds[0], grid.speeds[-1]) - grid.speeds[0]) / step
    speed_low = np.clip(np.floor(speed_cell).astype(np.int64), 0, len(grid.speeds) - 2)
    fraction, speed_fraction = cell - low, speed_cell - speed_low
    corners, weights = [], []
    count = len(grid.speeds)
    for bits in range(16):
        dx, dy, du, dv = (bits >> 3) & 1, (bits >> 2) & 1, (bits >> 1) & 1, bits & 1
        ix = (low[:, 0] + dx).clip(0, grid.index.shape[0] - 1)
        iy = (low[:, 1] + dy).clip(0, grid.index.shape[1] - 1)
        point = grid.index[ix, iy]
        weight = (
            np.where(dx, fraction[:, 0], 1 - fraction[:, 0])
            * np.where(dy, fraction[:, 1], 1 - fraction[:, 1])
            * np.where(du, speed_fraction[:, 0], 1 - speed_fraction[:, 0])
            * np.where(dv, speed_fraction[:, 1], 1 - speed_fraction[:, 1])
        )
        # A corner inside a wall takes no part: its weight goes to the free corners.
        weights.append(np.where(point < 0, 0.0, weight + 1e-9))
        corners.append(
            (point.clip(0) * count + speed_low[:, 0] + du) * count + speed_low[:, 1] + dv
        )
    weight_sum = np.maximum(sum(weights), 1e-12)
    return np.stack(corners, -1), np.stack(weights, -1) / np.asarray(weight_sum)[:, None]


@lru_cache
def solve_time_to_goal(
    name: str, spacing: float = 0.125, speeds: int = 9, repeat: int = 5, sweeps: int = 400
) -> TimeToGoal:
    """Value iteration for the fewest decisions to the goal of maze `name`.

    The state is position *and* velocity; nine actions (each axis -1, 0 or 1) are tried from every
    grid state with the closed-form physics. Interpolation blurs the answer by about half a
    decision; it is an oracle for order and scale, not for digits. About 10 s for "medium".
    """
    maze = geometry(name)
    rows, columns = maze.walls.shape
    origin = np.array([-columns / 2, -rows / 2]) + spacing / 2
    shape = (int(columns / spacing), int(rows / spacing))
    axes = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    positions = origin + spacing * axes
    free = ~touches_wall(maze, positions)
    index = np.where(free, np.cumsum(free).reshape(shape) - 1, -1)
    points = positions[free]
    velocity_axis = np.linspace(-MAX_SPEED, MAX_SPEED, speeds)
    grid = TimeToGoal(maze, points, velocity_axis, index, origin, spacing, torch.empty(0))

    u, v = np.meshgrid(velocity_axis, velocity_axis, indexing="ij")
    velocity = np.stack([u, v], -1).reshape(1, -1, 2).repeat(len(points), 0).reshape(-1, 2)
    position = points[:, None].repeat(speeds**2, 1).reshape(-1, 2)
    corners, weights, arrived = [], [], []
    for action in np.stack(np.meshgrid([-1.0, 0, 1], [-1.0, 0, 1]), -1).reshape(-1, 2):
        next_position, next_velocity = simulate_decision(maze, position, velocity, action, repeat)
        corner, weight = _interpolation(grid, next_position, next_velocity)
        corners.append(torch.from_numpy(corner.astype(np.int32)))
        weights.append(torch.from_numpy(weight.astype(np.float32)))
        reached = np.linalg.norm(next_position - maze.goal, axis=-1) <= GOAL_RADIUS
        arrived.append(torch.from_numpy(reached))

    at_goal = torch.from_numpy(np.linalg.norm(position - maze.goal, axis=-1) <= GOAL_RADIUS)
    decisions = torch.where(at_goal, 0.0, 1000.0)
    for _ in range(sweeps):
        best = torch.full_like(decisions, 1000.0)
        for corner_t, weight_t, reached_t in zip(corners, weights, arrived, strict=True):
            ahead = (decisions[corner_t] * weight_t).sum(-1).masked_fill(reached_t, 0.0)
            best = torch.minimum(best, 1.0 + ahead)
        update = torch.where(at_goal, 0.0, best)
        change = (update - decisions).abs().max()
        decisions = update
        if change < 1e-3:
            break
    shaped = decisions.reshape(len(points), speeds, speeds)
    return TimeToGoal(maze, points, velocity_axis, index, origin, spacing, shaped)
