"""What is known of registered tasks besides their data: rewards and ends as batched functions."""

from __future__ import annotations

import torch
from torch import Tensor

from ipd_lite.paper.world_model import TerminationFunction
from ipd_lite.tasks.mazes import GOAL_RADIUS, geometry
from ipd_lite.tasks.robots import PEN_DROPPED


def reach_goal_reward(observations: Tensor, actions: Tensor, next_observations: Tensor) -> Tensor:
    """-1 for every decision, shape (...)."""
    return torch.full_like(next_observations[..., 0], -1.0)


def reach_goal_termination(maze: str) -> TerminationFunction:
    """Terminated within `GOAL_RADIUS` of the maze's goal."""
    x, y = (float(v) for v in geometry(maze).goal)

    def terminated(next_observations: Tensor) -> Tensor:
        dx, dy = next_observations[..., 0] - x, next_observations[..., 1] - y
        return dx * dx + dy * dy <= GOAL_RADIUS**2

    return terminated


def hopper_termination(next_observations: Tensor) -> Tensor:
    """Terminated when the hopper is too low, leans too far, or a coordinate leaves (-100, 100).

    Hopper-v5's health condition. Velocities are clipped to 10 in the observation, so that the last
    part can only be seen in the joint angles.
    """
    height, angle = next_observations[..., 0], next_observations[..., 1]
    sane = (next_observations[..., 1:].abs() < 100).all(-1)
    return ~(sane & (height > 0.7) & (angle.abs() < 0.2))


def walker2d_termination(next_observations: Tensor) -> Tensor:
    """Terminated when the torso leaves heights 0.8 to 2 m or tilts by more than 1 rad."""
    height, angle = next_observations[..., 0], next_observations[..., 1]
    return ~((height > 0.8) & (height < 2.0) & (angle.abs() < 1.0))


def never_terminates(next_observations: Tensor) -> Tensor:
    """False for every state: episodes end by the time limit alone."""
    return torch.zeros_like(next_observations[..., 0], dtype=torch.bool)


def pen_termination(next_observations: Tensor) -> Tensor:
    """Terminated when the pen (height: entry 26) is dropped, as in D4RL."""
    return next_observations[..., 26] < PEN_DROPPED


LOCOMOTION_TERMINATION: dict[str, tuple[str, TerminationFunction]] = {
    "hopper": ("height <= 0.7 m or lean >= 0.2 rad", hopper_termination),
    "halfcheetah": ("never", never_terminates),
    "walker2d": ("height outside 0.8-2 m or lean >= 1 rad", walker2d_termination),
}
