"""Point mazes with a fixed goal: environments, geometry, controller and the exact solution.

The environments are Gymnasium-Robotics' PointMaze (a force-actuated ball between walls). Two named
wrappers turn them into offline-RL tasks with a known reward and a known termination rule:
:class:`ActionRepeat` (one *decision* = several simulator steps) and :class:`ReachGoal` (one fixed
goal, reward -1 per decision, terminal on arrival). Because the ball's physics is simple, the time
to the goal can also be computed on a grid (:func:`solve_time_to_goal`), an oracle for V.
"""

from __future__ import annotations

import contextlib
import io
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, SupportsFloat, cast

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

# At every import, in every worker, Gymnasium-Robotics prints a notice about other environments.
with contextlib.redirect_stderr(io.StringIO()):
    import gymnasium_robotics
    from gymnasium_robotics.envs.maze import maps
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv


gym.register_envs(gymnasium_robotics)


Array = NDArray[np.float64]


GOAL_RADIUS = 0.45
"""Distance (metres) within which Gymnasium-Robotics calls a maze goal reached."""


MAPS: dict[str, list[list[int]]] = {
    "umaze": maps.U_MAZE,
    "medium": maps.MEDIUM_MAZE,
    "large": maps.LARGE_MAZE,
}


GOAL_CELLS: dict[str, tuple[int, int]] = {"umaze": (3, 1), "medium": (6, 6), "large": (7, 10)}


DECISION_LIMITS: dict[str, int] = {"umaze": 60, "medium": 120, "large": 160}
"""Time limits in decisions: Gymnasium-Robotics' limits (300, 600, 800 steps) over five."""


# The ball of point.xml: radius, mass = density * volume, joint damping, motor gear, step, clip.
RADIUS, MASS, DAMPING, GEAR, TIME_STEP, MAX_SPEED = (
    0.1,
    4000 / 3 * np.pi * 1e-3,
    1.0,
    100.0,
    0.01,
    5.0,
)


class ActionRepeat(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Hold each action for `repeat` simulator steps; rewards are summed.

    One such group of steps is one *decision*. Stops early when the episode ends inside the group.
    """

    def __init__(self, env: gym.Env[Any, Any], repeat: int) -> None:
        if repeat < 1:
            raise ValueError(f"repeat must be at least 1, got {repeat}")
        gym.utils.RecordConstructorArgs.__init__(self, repeat=repeat)
        super().__init__(env)
        self.repeat = repeat

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One decision: up to `repeat` steps of the wrapped environment."""
        total = 0.0
        for _ in range(self.repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class ReachGoal(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """One fixed goal, reward -1 per decision, terminated on arrival.

    Gymnasium-Robotics adds uniform noise to every goal, even to one that the caller names; this
    wrapper puts the goal at the exact centre of `goal_cell`. Observations are the flat
    (x, y, velocity x, velocity y), in metres and metres per second.
    """

    def __init__(self, env: gym.Env[Any, Any], goal_cell: tuple[int, int]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, goal_cell=list(goal_cell))
        super().__init__(env)
        self.maze: Any = cast(Any, env.unwrapped)  # a PointMazeEnv
        self.goal = np.asarray(self.maze.maze.cell_rowcol_to_xy(np.array(goal_cell)))
        self.goal_cell = goal_cell
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start in a random free cell; the goal is put back to its exact place."""
        options = {"goal_cell": np.array(self.goal_cell), **(options or {})}
        observation, info = self.env.reset(seed=seed, options=options)
        self.maze.goal = self.goal.copy()
        self.maze.update_target_site_pos()
        info["success"] = self._arrived(observation["observation"])
        return observation["observation"], info

    def step(self, action: Any) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """One decision; reward -1, terminated on arrival."""
        observation, _, _, truncated, info = self.env.step(action)
        arrived = self._arrived(observation["observation"])
        info["success"] = arrived
        return observation["observation"], -1.0, arrived, truncated, info

    def _arrived(self, observation: Array) -> bool:
        return bool(np.linalg.norm(observation[:2] - self.goal) <= GOAL_RADIUS)


_models: dict[str, mujoco.MjModel] = {}


def _share_model(env: PointMazeEnv, maze: str) -> None:
    """Let all environments of one maze that draw nothing hold one model.

    Of the 12 MB of a model 11.6 are textures, and an evaluation keeps 25 environments.
    """
    point = env.point_env
    point.model = _models.setdefault(maze, point.model)
    point.data = mujoco.MjData(point.model)
    point.mujoco_renderer.model, point.mujoco_renderer.data = point.model, point.data


def make_point_maze(
    maze: str = "medium", action_repeat: int = 5, goal: bool = True, **kwargs: Any
) -> gym.Env[Any, Any]:
    """Entry point of the `ipd_lite/PointMaze-*` environments.

    With `goal=False` there is no goal, reward or end: so the data is collected.
    Keyword arguments go to Gymnasium-Robotics' `PointMazeEnv` (for instance `render_mode`).
    """
    point_maze = PointMazeEnv(
        maze_map=MAPS[maze], continuing_task=True, reset_target=False, **kwargs
    )
    if kwargs.get("render_mode") is None:
        _share_model(point_maze, maze)
    env: gym.Env[Any, Any] = ActionRepeat(point_maze, action_repeat)
    return ReachGoal(env, GOAL_CELLS[maze]) if goal else env


for _name in MAPS:
    gym.register(
        id=f"ipd_lite/PointMaze-{_name.capitalize()}-v0",
        entry_point="ipd_lite.tasks.mazes:make_point_maze",
        kwargs={"maze": _name},
        max_episode_steps=DECISION_LIMITS[_name],
        disable_env_checker=True,
    )


@dataclass(frozen=True)
class Geometry:
    """A maze as arrays: cells in rows and columns, positions in metres, origin at the centre.

    walls: (rows, columns) bool. cells: (C, 2) row and column of every free cell. centres: (C, 2)
    x and y of their centres. next_cell: (C, C), `next_cell[i, j]` is the cell after i on a shortest
    path to j. goal: (2,) x and y of the task's goal.
    """

    name: str
    walls: NDArray[np.bool_]
    cells: NDArray[np.int64]
    centres: Array
    next_cell: NDArray[np.int64]
    goal: Array

    def cell_of(self, positions: Array) -> NDArray[np.int64]:
        """Index of the free cell whose centre is nearest to each position, (..., 2) -> (...)."""
        distance = np.abs(positions[..., None, :] - self.centres).max(-1)
        nearest: NDArray[np.int64] = distance.argmin(-1)
        return nearest


def _breadth_first(neighbours: list[list[int]], target: int) -> NDArray[np.int64]:
    """For every cell, the next cell on a shortest path to `target` (itself at the target)."""
    step = np.full(len(neighbours), -1, dtype=np.int64)
    step[target] = target
    queue = deque([target])
    while queue:
        cell = queue.popleft()
        for other in neighbours[cell]:
            if step[other] < 0:
                step[other] = cell
                queue.append(other)
    return step


@lru_cache
def geometry(name: str) -> Geometry:
    """Geometry of the maze `name` ("umaze", "medium" or "large")."""
    if name not in MAPS:
        raise KeyError(f"unknown maze {name!r}: expected one of {', '.join(MAPS)}")
    walls = np.array(MAPS[name]) == 1
    rows, columns = walls.shape
    cells = np.argwhere(~walls)
    centres = np.stack(
        [cells[:, 1] + 0.5 - columns / 2, rows / 2 - cells[:, 0] - 0.5], axis=1
    ).astype(np.float64)
    neighbours = [
        [int(j) for j in np.flatnonzero(np.abs(cells - cell).sum(1) == 1)] for cell in cells
    ]
    next_cell = np.stack([_breadth_first(neighbours, j) for j in range(len(cells))], axis=1)
    goal_index = int(np.flatnonzero((cells == GOAL_CELLS[name]).all(1))[0])
    return Geometry(name, walls, cells, centres, next_cell, centres[goal_index])


def waypoint_action(maze: Geometry, observations: Array, goals: Array, speed: float = 1.0) -> Array:
    """D4RL's maze2d controller: proportional-derivative control to the next cell on the way.

    observations (..., 4), goals (..., 2) -> actions (..., 2) in [-speed, speed].
    """
    here, there = maze.cell_of(observations[..., :2]), maze.cell_of(goals)
    waypoint = np.where(
        (here == there)[..., None], goals, maze.centres[maze.next_cell[here, there]]
    )
    force = 10.0 * (waypoint - observations[..., :2]) - observations[..., 2:]
    clipped: Array = speed * np.clip(force, -1.0, 1.0)
    return clipped


def simulate_decision(
    maze: Geometry, position: Array, velocity: Array, action: Array, repeat: int = 5
) -> tuple[Array, Array]:
    """One decision of the ball in closed form, (..., 2) arrays in and out.

    Matches MuJoCo to rounding in free space (semi-implicit Euler, implicit joint damping). Walls
    are hard here: the ball stops at them along the blocked axis; MuJoCo's contacts are soft.
    """
    for _ in range(repeat):
        velocity = np.clip(velocity, -MAX_SPEED, MAX_SPEED)
        velocity = (MASS * velocity + TIME_STEP * GEAR * action) / (MASS + TIME_STEP * DAMPING)
        for axis in (0, 1):
            trial = position.copy()
            trial[..., axis] += TIME_STEP * velocity[..., axis]
            blocked = touches_wall(maze, trial)
            position = np.where(blocked[..., None], position, trial)
            velocity = velocity.copy()
            velocity[..., axis] = np.where(blocked, 0.0, velocity[..., axis])
    return position, velocity


def touches_wall(maze: Geometry, position: Array) -> NDArray[np.bool_]:
    """Whether the ball's bounding square at each position (..., 2) overlaps a wall cell."""
    rows, columns = maze.walls.shape
    hit = np.zeros(position.shape[:-1], dtype=bool)
    for dx in (-RADIUS, RADIUS):
        for dy in (-RADIUS, RADIUS):
            column = np.floor(position[..., 0] + dx + columns / 2).astype(np.int64)
            row = np.floor(rows / 2 - (position[..., 1] + dy)).astype(np.int64)
            inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            hit |= ~inside | maze.walls[row.clip(0, rows - 1), column.clip(0, columns - 1)]
    return hit
