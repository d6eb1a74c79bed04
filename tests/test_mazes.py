"""The point mazes: physics against MuJoCo, walls, the fixed goal, the exact solution."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.data.minari_files import save_minari
from ipd_lite.report.oracle import TimeToGoal, solve_time_to_goal
from ipd_lite.tasks.mazes import (
    DECISION_LIMITS,
    GOAL_CELLS,
    GOAL_RADIUS,
    MAPS,
    MAX_SPEED,
    RADIUS,
    ActionRepeat,
    Array,
    Geometry,
    geometry,
    make_point_maze,
    simulate_decision,
    waypoint_action,
)
from ipd_lite.tasks.registry import get_task

NAMES = tuple(MAPS)


def wall_depth(maze: Geometry, positions: Array) -> float:
    """How deep the ball's square reaches into any wall cell, in metres (negative: free)."""
    rows, columns = maze.walls.shape
    row, column = np.nonzero(maze.walls)
    centres = np.stack([column + 0.5 - columns / 2, rows / 2 - row - 0.5], axis=1)
    overlap = 0.5 + RADIUS - np.abs(positions[:, None] - centres)
    return float(overlap.min(-1).max())


@lru_cache
def cells_to_goal(name: str) -> NDArray[np.int64]:
    """Length of the shortest walk from every free cell to the goal's, by flooding the map."""
    walls = np.array(MAPS[name]) == 1
    reached = np.zeros_like(walls)
    reached[GOAL_CELLS[name]] = True
    distance = np.full(walls.shape, -1)
    distance[reached] = 0
    for steps in range(1, walls.size):
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        distance[grown & ~reached & ~walls] = steps
        reached = grown & ~walls
    return distance[~walls]


@pytest.fixture(scope="module")
def umaze() -> Iterator[gym.Env[Any, Any]]:
    env = get_task("pointmaze-umaze").make()
    yield env
    env.close()


@pytest.fixture(scope="module")
def solution() -> TimeToGoal:
    return solve_time_to_goal("umaze")


def put_ball(env: gym.Env[Any, Any], position: Array, velocity: Array) -> None:
    env.reset(seed=0)
    env.unwrapped.point_env.set_state(position, velocity)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_geometry_agrees_with_the_simulator(name: str) -> None:
    maze = geometry(name)
    env = make_point_maze(name)
    simulated = env.unwrapped.maze  # type: ignore[attr-defined]
    for cell, centre in zip(maze.cells, maze.centres, strict=True):
        np.testing.assert_allclose(simulated.cell_rowcol_to_xy(cell), centre)
    np.testing.assert_allclose(simulated.cell_rowcol_to_xy(np.array(GOAL_CELLS[name])), maze.goal)
    assert (maze.cell_of(maze.centres + 0.4) == np.arange(len(maze.cells))).all()
    env.close()


@pytest.mark.parametrize("name", NAMES)
def test_next_cells_lead_to_the_target_on_a_shortest_path(name: str) -> None:
    maze = geometry(name)
    goal = int(maze.cell_of(maze.goal))
    for start in range(len(maze.cells)):
        cell, steps = start, 0
        while cell != goal:
            following = int(maze.next_cell[cell, goal])
            assert np.abs(maze.cells[cell] - maze.cells[following]).sum() == 1
            cell, steps = following, steps + 1
        assert steps == cells_to_goal(name)[start]


def test_unknown_maze_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="umaze, medium, large"):
        geometry("huge")


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_closed_form_physics_equals_mujoco_in_free_space(
    umaze: gym.Env[Any, Any], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    maze = geometry("umaze")
    # Near the middle of a long corridor, fast or slow, above the speed limit too.
    position = np.array([0.0, 1.0]) + generator.uniform(-0.1, 0.1, 2)
    velocity = generator.uniform(-1.3, 1.3, 2) * np.array([MAX_SPEED, 0.2 * MAX_SPEED])
    put_ball(umaze, position, velocity)
    for _ in range(2):
        action = generator.uniform(-1, 1, 2).astype(np.float32)
        observation = umaze.step(action)[0]
        position, velocity = simulate_decision(maze, position, velocity, action.astype(float))
        np.testing.assert_allclose(observation, [*position, *velocity], atol=1e-6)


def test_physics_is_the_same_one_by_one_and_in_a_batch() -> None:
    maze, generator = geometry("medium"), np.random.default_rng(0)
    position = maze.centres[generator.integers(len(maze.centres), size=(3, 4))]
    velocity, action = generator.normal(size=(2, 3, 4, 2))
    together = simulate_decision(maze, position, velocity, action)
    for index in np.ndindex(3, 4):
        alone = simulate_decision(maze, position[index], velocity[index], action[index])
        np.testing.assert_allclose(together[0][index], alone[0])
        np.testing.assert_allclose(together[1][index], alone[1])


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(NAMES))
def test_ball_never_enters_a_wall_in_closed_form(seed: int, name: str) -> None:
    generator, maze = np.random.default_rng(seed), geometry(name)
    position = maze.centres[generator.integers(len(maze.centres), size=50)]
    velocity = np.zeros_like(position)
    action = generator.choice([-1.0, 0.0, 1.0], (50, 2))
    for step in range(30):
        if step % 5 == 0:
            action = generator.choice([-1.0, 0.0, 1.0], (50, 2))
        position, velocity = simulate_decision(maze, position, velocity, action)
        assert wall_depth(maze, position) <= 1e-9


def test_ball_never_enters_a_wall_in_the_simulator() -> None:
    env, generator = make_point_maze("medium", goal=False), np.random.default_rng(0)
    env.reset(seed=0)
    visited = []
    for _ in range(100):
        action = generator.choice([-1.0, 1.0], 2)
        visited += [env.step(action)[0]["observation"][:2] for _ in range(5)]
    # MuJoCo's contacts are soft: a few centimetres at full speed, never through.
    assert wall_depth(geometry("medium"), np.stack(visited)) < 0.06
    assert np.ptp(np.stack(visited), axis=0).min() > 0.5
    env.close()


def test_goal_is_the_exact_centre_at_every_reset(umaze: gym.Env[Any, Any]) -> None:
    starts = []
    for seed in range(20):
        observation, info = umaze.reset(seed=seed)
        starts.append(observation)
        np.testing.assert_array_equal(umaze.unwrapped.goal, geometry("umaze").goal)  # type: ignore[attr-defined]
        drawn = umaze.unwrapped.model.site("target").pos[:2]  # type: ignore[attr-defined]
        np.testing.assert_array_equal(drawn, geometry("umaze").goal)
        assert info["success"] is False
    assert len({tuple(start) for start in starts}) == 20


def test_environments_of_a_maze_share_the_model_and_nothing_that_moves() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 2))
    pictured = make_point_maze("umaze", render_mode="rgb_array")  # what draws has its own model
    first, second = make_point_maze("umaze"), make_point_maze("umaze")
    model = first.unwrapped.model  # type: ignore[attr-defined]
    assert second.unwrapped.model is model  # type: ignore[attr-defined]
    assert pictured.unwrapped.model is not model  # type: ignore[attr-defined]
    alone = [pictured.reset(seed=3)[0], *(pictured.step(action)[0] for action in actions)]
    ours = [first.reset(seed=3)[0]]
    second.reset(seed=4)
    for action in actions:
        second.step(-action)
        ours.append(first.step(action)[0])
    np.testing.assert_array_equal(ours, alone)


def test_same_seed_same_episode() -> None:
    def play() -> Array:
        env = get_task("pointmaze-medium").make()
        rows = [env.reset(seed=7)[0]]
        rows += [env.step(np.array([np.sin(t), np.cos(t)]))[0] for t in range(30)]
        env.close()
        return np.stack(rows)

    np.testing.assert_array_equal(play(), play())


def test_reset_cell_can_be_chosen(umaze: gym.Env[Any, Any]) -> None:
    observation, _ = umaze.reset(seed=0, options={"reset_cell": np.array([1, 1])})
    assert np.abs(observation[:2] - [-1.0, 1.0]).max() <= 0.25


def test_episode_ends_on_arrival_or_at_the_limit(umaze: gym.Env[Any, Any]) -> None:
    goal = geometry("umaze").goal
    put_ball(umaze, goal + np.array([GOAL_RADIUS + 0.04, 0.0]), np.zeros(2))
    rewards, over = 0.0, False
    while not over:
        observation, reward, terminated, over, info = umaze.step(np.array([-1.0, 0.0]))
        rewards += float(reward)
        over = over or terminated
        assert terminated == (np.linalg.norm(observation[:2] - goal) <= GOAL_RADIUS)
        assert info["success"] is terminated
    assert terminated
    assert -5 < rewards < -1
    put_ball(umaze, np.array([-1.0, 1.0]), np.zeros(2))
    for step in range(DECISION_LIMITS["umaze"]):
        _, reward, terminated, truncated, _ = umaze.step(np.zeros(2))
        assert (reward, terminated) == (-1.0, False)
        assert truncated == (step == DECISION_LIMITS["umaze"] - 1)


class Counter(gym.Env[Any, Any]):
    """Reward 1 per step; terminates or truncates after `last` steps."""

    observation_space = action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, last: int, terminates: bool) -> None:
        self.last, self.terminates, self.steps = last, terminates, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps == self.last
        return self.steps, 1.0, over and self.terminates, over and not self.terminates, {}


@pytest.mark.parametrize("terminates", [True, False])
def test_action_repeat_sums_rewards_and_stops_at_the_end(terminates: bool) -> None:
    env = ActionRepeat(Counter(7, terminates), 5)
    assert env.step(0)[:4] == (5, 5.0, False, False)
    assert env.step(0)[:4] == (7, 2.0, terminates, not terminates)
    with pytest.raises(ValueError, match="at least 1"):
        ActionRepeat(Counter(1, True), 0)


def layers(env: gym.Env[Any, Any]) -> list[str]:
    """Names of the wrappers, outermost first."""
    names = []
    while isinstance(env, gym.Wrapper):
        names.append(type(env).__name__)
        env = env.env
    return names


def test_recovered_environment_is_wrapped_once_and_behaves_the_same(datasets: object) -> None:
    task = get_task("pointmaze-umaze")
    episode = Episode(np.zeros((2, 4)), np.zeros((1, 2)), -np.ones(1), False)
    save_minari(from_episodes([episode], task.dataset), task.dataset, environment=task.environment)
    ours, theirs = task.make(), minari.load_dataset(task.dataset).recover_environment()
    assert layers(theirs) == layers(ours)
    assert layers(theirs).count("ActionRepeat") == layers(theirs).count("ReachGoal") == 1
    assert theirs.observation_space == ours.observation_space
    np.testing.assert_array_equal(theirs.reset(seed=3)[0], ours.reset(seed=3)[0])
    for step in range(70):
        action = np.array([np.sin(step), 1.0])
        one, other = theirs.step(action), ours.step(action)
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:4] == other[1:4]
        if one[2] or one[3]:
            break
    assert step == DECISION_LIMITS["umaze"] - 1
    ours.close()
    theirs.close()


@given(seed=st.integers(0, 10_000), speed=st.floats(0.1, 1.0))
def test_controller_pushes_towards_the_next_cell(seed: int, speed: float) -> None:
    maze, generator = geometry("medium"), np.random.default_rng(seed)
    cells = generator.integers(len(maze.centres), size=(2, 20))
    at_rest = np.concatenate([maze.centres[cells[0]], np.zeros((20, 2))], axis=1)
    action = waypoint_action(maze, at_rest, maze.centres[cells[1]], speed)
    assert np.abs(action).max() <= speed
    towards = maze.centres[maze.next_cell[cells[0], cells[1]]] - maze.centres[cells[0]]
    np.testing.assert_allclose(action, speed * towards)


def controller_decisions(env: gym.Env[Any, Any], maze: Geometry, seed: int) -> tuple[Array, int]:
    """Start and number of decisions that the waypoint controller needs from it."""
    start, _ = env.reset(seed=seed)
    observation, decisions, over = start, 0, False
    while not over:
        action = waypoint_action(maze, observation, maze.goal)
        observation, _, terminated, truncated, _ = env.step(action)
        decisions, over = decisions + 1, terminated or truncated
    return start, decisions


def test_time_to_goal_against_bounds_and_controller(
    umaze: gym.Env[Any, Any], solution: TimeToGoal
) -> None:
    maze = geometry("umaze")
    played = [controller_decisions(umaze, maze, seed) for seed in range(60)]
    starts = np.stack([start for start, _ in played])
    controller = np.array([decisions for _, decisions in played])
    optimal = solution(starts)
    # No policy beats the optimum (interpolation blurs it by about half a decision) ...
    assert (optimal <= controller + 0.5).all()
    # ... and no ball is faster than its top speed along a shortest path. Corners may be cut and
    # the goal's edge is near, hence one cell and the radius less.
    path = cells_to_goal("umaze")[maze.cell_of(starts[:, :2])]
    per_decision = 5 * 0.01 * MAX_SPEED * np.sqrt(2)
    assert (optimal >= (path - 1 - GOAL_RADIUS) / per_decision).all()
    assert np.corrcoef(optimal, controller)[0, 1] > 0.95


def test_time_to_goal_is_consistent_with_one_step_of_physics(solution: TimeToGoal) -> None:
    """Bellman's equation, off the grid: one decision of the best action costs one decision."""
    maze, generator = geometry("umaze"), np.random.default_rng(0)
    cell = generator.integers(len(maze.centres), size=400)
    position = maze.centres[cell] + generator.uniform(-0.3, 0.3, (400, 2))
    velocity = generator.uniform(-2, 2, (400, 2))
    here = solution(np.concatenate([position, velocity], axis=1))
    best = np.full(400, np.inf)
    for x in (-1.0, 0.0, 1.0):
        for y in (-1.0, 0.0, 1.0):
            moved = simulate_decision(maze, position, velocity, np.full((400, 2), [x, y]))
            best = np.minimum(best, 1 + solution(np.concatenate(moved, axis=1)))
    far = np.linalg.norm(position - maze.goal, axis=1) > 1
    assert float(np.abs(here - best)[far].mean()) < 0.1


@pytest.mark.parametrize("distance", [0.8, 1.2, 1.6, 2.0])
def test_time_to_goal_along_a_straight_corridor_is_full_throttle(
    solution: TimeToGoal, distance: float
) -> None:
    """With nothing in the way no action is better than full force; Newton's law counts steps."""
    mass = 1000 * 4 / 3 * np.pi * 0.1**3
    travelled, speed, steps = 0.0, 0.0, 0
    while travelled < distance - GOAL_RADIUS:
        speed = (mass * min(speed, 5.0) + 0.01 * 100) / (mass + 0.01)
        travelled, steps = travelled + 0.01 * speed, steps + 1
    x, y = geometry("umaze").goal
    assert float(solution(np.array([x + distance, y, 0, 0]))) == pytest.approx(steps / 5, abs=1)


def test_time_to_goal_is_zero_inside_and_finite_everywhere(solution: TimeToGoal) -> None:
    maze = geometry("umaze")
    assert solution(np.array([*maze.goal, 0.0, 0.0])) == 0
    every_cell = np.concatenate([maze.centres, np.zeros_like(maze.centres)], axis=1)
    times = solution(every_cell.reshape(-1, 1, 4))
    assert times.shape == (len(maze.centres), 1)
    assert (times < DECISION_LIMITS["umaze"]).all()


@pytest.mark.parametrize("discount", [0.5, 0.99])
def test_exact_value_is_the_discounted_sum_of_minus_ones(
    solution: TimeToGoal, discount: float
) -> None:
    start = np.array([-1.0, 1.0, 0.0, 0.0])
    decisions = float(solution(start))
    below, above = (
        -sum(discount**t for t in range(count))
        for count in (int(np.ceil(decisions)), int(np.floor(decisions)))
    )
    assert below <= float(solution.value(start, discount)) <= above
