"""A robot under several policies, limb by limb, for the picture of before and after."""

from __future__ import annotations

import itertools
from typing import Any

import mujoco
import numpy as np
import torch

from ipd_lite import plots
from ipd_lite.course.example import episode
from ipd_lite.paper.acting import Actor
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.report.diagnostics import RobotSimulator
from ipd_lite.tasks.mazes import Array
from ipd_lite.tasks.task import Task


def limbs_of(robot: Any) -> Array:
    """Both ends (L, 2, 2) of every capsule of a planar MuJoCo robot: metres forward and up."""
    mujoco.mj_kinematics(robot.model, robot.data)  # a step leaves places one substep behind
    capsules = robot.model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE
    middle = robot.data.geom_xpos[capsules]
    half = robot.model.geom_size[capsules, 1, None]
    axis = robot.data.geom_xmat[capsules].reshape(-1, 3, 3)[:, :, 2] * half
    return np.stack([middle - axis, middle + axis], axis=1)[..., [0, 2]]


def run_policy(
    task: Task,
    actor: Actor,
    device: torch.device | str = "cpu",
    seed: int = 12345,
    steps: int = 500,
) -> plots.Runner:
    """One episode of at most `steps` steps from the evaluation's start with this seed; `device` is
    the actor's."""
    env = task.make()
    postures, fell = [], False
    for seen in itertools.islice(episode(env, actor, seed, device), steps + 1):
        postures.append(limbs_of(env.unwrapped))
        fell = seen.terminated
    env.close()
    return _runner(np.stack(postures), fell)


def run_recorded(task: Task, data: OfflineDataset, steps: int = 500) -> plots.Runner:
    """The recorded episode whose return is the median, at most `steps` steps of it."""
    order = data.episode_returns.argsort()
    episode = int(order[len(order) // 2])
    count = min(int(data.lengths[episode]), steps)
    rows = data.starts[episode] + torch.arange(count, device=data.device)
    last = rows[-1:]
    observations = torch.cat([data.observations[rows], data.next_observations[last]])
    whole = len(rows) == int(data.lengths[episode])
    return replay(task, observations.cpu().numpy(), whole and bool(data.terminated[last]))


def replay(task: Task, observations: Array, fell: bool) -> plots.Runner:
    """Observed states (T + 1, O) as postures; how far it came is summed up from the velocities."""
    robot: Any = RobotSimulator(task.environment).robot
    angles = robot.model.nq - 1
    forward = np.concatenate([[0.0], np.cumsum(observations[1:, angles]) * robot.dt])
    seen = []
    for x, observation in zip(forward, observations.astype(np.float64), strict=True):
        robot.set_state(np.concatenate([[x], observation[:angles]]), observation[angles:])
        seen.append(limbs_of(robot))
    return _runner(np.stack(seen), fell)


def _runner(limbs: Array, fell: bool) -> plots.Runner:
    limbs = limbs - [limbs[0, ..., 0].mean(), 0.0]
    return plots.Runner(limbs, limbs[..., 0].mean(axis=(1, 2)), fell)
