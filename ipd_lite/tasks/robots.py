"""Hands, a kitchen and ants as D4RL's reference scores assume them.

**Hands** (Adroit). Gymnasium-Robotics 1.4 *adds* 0.1 times the distance from palm to object to the
reward of door, hammer and relocate, where D4RL subtracts it, and never ends an episode of pen,
where D4RL ends it when the pen is dropped. :class:`HandOfD4RL` undoes both. A random policy then
earns D4RL's reference returns again (a test measures it).

**Kitchen**. FrankaKitchen-v1 with D4RL's four subtasks per dataset: reward 1 for every subtask
that is newly finished, at most 4.

**AntMaze**. One fixed start and goal, reward 1 on arrival, which ends the episode. Observations
are those of version 4 (27 numbers), with which the published datasets were recorded.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, SupportsFloat, cast

import gymnasium as gym
import numpy as np

with contextlib.redirect_stderr(io.StringIO()):  # a notice at every import, see mazes.py
    from gymnasium_robotics.envs import adroit_hand
    from gymnasium_robotics.envs.franka_kitchen import KitchenEnv
    from gymnasium_robotics.envs.maze import maps
    from gymnasium_robotics.envs.maze.ant_maze_v4 import AntMazeEnv


PEN_DROPPED = 0.075
"""Height (metres) of the pen below which D4RL ends the episode."""


HAND_LIMITS: dict[str, int] = {"pen": 100, "door": 200, "hammer": 200, "relocate": 200}
"""Steps per episode with which D4RL measured its reference returns."""


KITCHEN_SUBTASKS: dict[str, tuple[str, ...]] = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}


ANT_MAZE_CELLS: dict[str, tuple[list[list[int]], tuple[int, int], tuple[int, int]]] = {
    "umaze": (maps.U_MAZE, (3, 1), (1, 1)),
    "medium": (maps.MEDIUM_MAZE, (1, 1), (6, 6)),
}
"""Map, start cell and goal cell, each (row, column)."""


ANT_MAZE_LIMITS: dict[str, int] = {"umaze": 700, "medium": 1000}


class HandOfD4RL(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """An Adroit environment with D4RL's reward and termination; plain numbers for both."""

    def __init__(self, env: gym.Env[Any, Any], hand: str) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, hand=hand)
        super().__init__(env)
        self.hand, self.robot = hand, cast(Any, env.unwrapped)

    def reach(self) -> float:
        """Distance (metres) from the palm to the object, 0 for pen (no part of its reward)."""
        robot, places = self.robot, self.robot.data
        if self.hand == "pen":
            return 0.0
        if self.hand == "door":
            palm, thing = (
                places.site_xpos[robot.grasp_site_id],
                places.site_xpos[robot.handle_site_id],
            )
        else:
            palm, thing = places.site_xpos[robot.S_grasp_site_id], places.xpos[robot.obj_body_id]
        return float(np.linalg.norm(palm - thing))

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step; the sign of the reach is D4RL's, a dropped pen terminates."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["success"] = bool(np.asarray(info["success"]).item())
        reward = float(np.asarray(reward).item()) - 2 * 0.1 * self.reach()
        if self.hand == "pen":
            terminated = bool(self.robot.data.xpos[self.robot.obj_body_id][2] < PEN_DROPPED)
        return observation, reward, terminated, truncated, info


def make_hand(hand: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """Entry point of `ipd_lite/AdroitHand*-v0`."""
    kind = getattr(adroit_hand, f"AdroitHand{hand.capitalize()}Env")
    return HandOfD4RL(kind(reward_type="dense", **kwargs), hand)


def make_kitchen(dataset: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """Entry point of `ipd_lite/Kitchen*-v0`: FrankaKitchen-v1 with one dataset's subtasks."""
    return cast(
        "gym.Env[Any, Any]", KitchenEnv(tasks_to_complete=list(KITCHEN_SUBTASKS[dataset]), **kwargs)
    )


def make_ant_maze(maze: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """Entry point of `ipd_lite/AntMaze-*-v0`: one start, one goal, over on arrival."""
    cells, start, goal = ANT_MAZE_CELLS[maze]
    marked: list[list[Any]] = [list(row) for row in cells]
    marked[start[0]][start[1]], marked[goal[0]][goal[1]] = "r", "g"
    return cast("gym.Env[Any, Any]", AntMazeEnv(maze_map=marked, continuing_task=False, **kwargs))


def _register(name: str, function: str, limit: int, **kwargs: Any) -> None:
    gym.register(
        id=name,
        entry_point=f"ipd_lite.tasks.robots:{function}",
        kwargs=kwargs,
        max_episode_steps=limit,
        disable_env_checker=True,
    )


for _hand, _limit in HAND_LIMITS.items():
    _register(f"ipd_lite/AdroitHand{_hand.capitalize()}-v0", "make_hand", _limit, hand=_hand)


for _kind in KITCHEN_SUBTASKS:
    _register(f"ipd_lite/Kitchen-{_kind.capitalize()}-v0", "make_kitchen", 280, dataset=_kind)


for _maze, _limit in ANT_MAZE_LIMITS.items():
    _register(f"ipd_lite/AntMaze-{_maze.capitalize()}-v0", "make_ant_maze", _limit, maze=_maze)
