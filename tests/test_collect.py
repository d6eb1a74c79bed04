"""Collecting data: the same bytes for a seed, and honest labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ipd_lite.data.episodes import from_episodes
from ipd_lite.data.minari_files import local_path
from ipd_lite.paper.dataset import DataError
from ipd_lite.tasks.collect import (
    behaviour_action,
    collect,
    label_stream,
    plan_streams,
    record_actors,
    record_locomotion,
    record_stream,
    training_shares,
)
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.mazes import GOAL_RADIUS, geometry, waypoint_action
from ipd_lite.tasks.registry import TASKS, get_task
from ipd_lite.tasks.snapshots import (
    ENVIRONMENTS,
    FOLDER,
    act,
    load_snapshots,
    measure,
    measured_scores,
    normalized_score,
    read_table,
    robot_of,
    trainings,
)
from ipd_lite.tasks.task import MazeRecipe, SnapshotRecipe, Task

RECIPE = MazeRecipe(maze="umaze", decisions=300, episode_length=20, seed=3)


def tiny_task(recipe: MazeRecipe | None = RECIPE) -> Task:
    return replace(get_task("pointmaze-umaze"), dataset="test/tiny-v0", recipe=recipe)


def test_stream_repeats_for_a_seed_and_changes_with_it() -> None:
    one, again, other = (
        record_stream(replace(RECIPE, decisions=60, seed=seed), progress=False)
        for seed in (3, 3, 4)
    )
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(one[1], other[1])
    assert [array.shape for array in one] == [(61, 4), (60, 2)]


def test_stored_dataset_is_what_was_collected(datasets: Path) -> None:
    task = tiny_task()
    collected = collect(task, progress=False)
    assert load_task(task).fingerprint() == collected.fingerprint()
    with pytest.raises(DataError, match="exists already"):
        collect(task, progress=False)
    assert collect(task, progress=False, replace_existing=True).fingerprint() == (
        collected.fingerprint()
    )


def test_task_without_recipe_says_how_to_get_its_data(datasets: Path) -> None:
    with pytest.raises(DataError, match="`ipd-lite download door-human` gets its data"):
        collect(get_task("door-human"))


streams = st.lists(st.sampled_from([0.0, 0.3, 0.6, 2.0]), min_size=2, max_size=40)


@given(distances=streams, length=st.integers(1, 7))
def test_labels_of_any_stream(distances: list[float], length: int) -> None:
    """Positions at these distances from the goal; the second entry numbers the steps."""
    goal = np.array([5.0, 0.0])
    observations = np.array([[5.0 + d, 0.0, t, 0.0] for t, d in enumerate(distances)])
    actions = np.arange(len(distances) - 1, dtype=float)[:, None]
    inside = [d <= GOAL_RADIUS for d in distances]
    used: list[int] = []
    for episode in label_stream(observations, actions, goal, length):
        steps = episode.observations[:, 2].astype(int).tolist()
        assert steps == list(range(steps[0], steps[-1] + 1))
        assert episode.actions[:, 0].tolist() == steps[:-1]
        assert len(episode.rewards) <= length
        assert (episode.rewards == -1).all()
        assert not any(inside[step] for step in steps[:-1])
        assert episode.terminated == inside[steps[-1]]
        used += steps[:-1]
    # Every step that begins outside the goal is used exactly once, none that begins inside.
    assert used == [step for step in range(len(actions)) if not inside[step]]


def test_behaviour_is_the_controller_plus_noise() -> None:
    maze, generator = geometry("umaze"), np.random.default_rng(0)
    observations = np.zeros((20_000, 4))
    observations[:, :2] = maze.centres[0] + [0.02, -0.03]
    goals = np.broadcast_to(maze.centres[0], (20_000, 2))
    recipe = MazeRecipe("umaze", speed=0.4, noise=0.2)
    clean = waypoint_action(maze, observations, goals, 0.4)
    noise = behaviour_action(maze, observations, goals, recipe, generator) - clean
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(noise.std(0), 0.2, atol=0.01)
    wild = replace(recipe, noise=5.0)
    assert np.abs(behaviour_action(maze, observations, goals, wild, generator)).max() == 1
    calm = replace(recipe, noise=0.0)
    np.testing.assert_array_equal(
        behaviour_action(maze, observations, goals, calm, generator), clean
    )


def test_stream_wanders_through_the_whole_maze() -> None:
    observations, actions = record_stream(replace(RECIPE, decisions=1500), progress=False)
    maze = geometry("umaze")
    assert set(maze.cell_of(observations[:, :2]).tolist()) == set(range(len(maze.cells)))
    assert np.abs(actions).max() <= 1
    # One walk: no jump that the ball could not make.
    assert np.abs(np.diff(observations[:, :2], axis=0)).max() < 0.3


# ---------------------------------------------------------------- locomotion


RECIPES = {
    name: task.recipe for name, task in TASKS.items() if isinstance(task.recipe, SnapshotRecipe)
}
DATASETS = {
    row["task"]: row for row in read_table(Path(__file__).parents[1] / "figures/data/datasets.csv")
}


def small_recipe(mixture: str, steps: int = 30, seed: int = 0) -> SnapshotRecipe:
    return replace(RECIPES[f"hopper-{mixture}"], steps=steps, copies=3, seed=seed)


def test_every_robot_has_every_mixture() -> None:
    mixtures = ("medium", "medium-replay", "full-replay", "medium-expert")
    assert set(RECIPES) == {f"{robot}-{mixture}" for robot in ENVIRONMENTS for mixture in mixtures}
    for name, recipe in RECIPES.items():
        assert name == f"{robot_of(recipe.training)}-{recipe.mixture}"
        assert recipe.steps * recipe.copies == 200_000


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_names_packaged_snapshots_and_uses_up_its_steps(name: str) -> None:
    recipe = RECIPES[name]
    assert set(recipe.named_steps) <= set(load_snapshots(recipe.training))
    streams = plan_streams(recipe)
    assert sum(steps for stream in streams for _, steps in stream) == recipe.steps
    assert all(steps > 0 for stream in streams for _, steps in stream)
    missing = replace(recipe, mixture="medium-expert", medium=7, expert=recipe.expert)
    with pytest.raises(DataError, match="no packaged snapshot at step 7"):
        plan_streams(missing)


@pytest.mark.parametrize("robot", ENVIRONMENTS)
def test_expert_is_the_best_packaged_snapshot_and_deserves_the_name(robot: str) -> None:
    recipe = RECIPES[f"{robot}-medium-expert"]
    scores = measured_scores(recipe.training)
    assert scores[recipe.expert] >= max(scores.values()) - 0.5  # equals, but for a few tenths
    assert scores[recipe.expert] >= (85 if robot == "walker2d" else 95)
    assert recipe.medium < recipe.expert
    assert scores[recipe.medium] < scores[recipe.expert] - 20


def test_table_describes_every_packaged_snapshot() -> None:
    for training in trainings():
        assert list(measured_scores(training)) == list(load_snapshots(training))
    for row in read_table(FOLDER / "snapshots.csv"):
        expected = normalized_score(robot_of(row["training"]), float(row["return_mean"]))
        assert float(row["normalized_score"]) == pytest.approx(expected, abs=0.01)
        assert float(row["return_best"]) >= float(row["return_mean"])
    # The package stays small.
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12e6


def test_measuring_again_gives_the_table() -> None:
    """Untrained Hoppers fall within a few steps: cheap to measure."""
    row = next(r for r in read_table(FOLDER / "snapshots.csv") if r["training"] == "hopper-tqc-0")
    weights = load_snapshots("hopper-tqc-0")[int(row["step"])]
    measured = measure("hopper", weights, int(row["episodes"]))
    for name, value in measured.items():
        assert float(row[name]) == pytest.approx(value, rel=0.02, abs=0.02), name


@given(
    steps=st.lists(st.integers(1, 10**6), min_size=1, max_size=20, unique=True).map(sorted),
    total=st.integers(1, 10_000),
)
def test_training_shares_cover_every_step_by_its_nearest_snapshot(
    steps: list[int], total: int
) -> None:
    shares = training_shares(steps, total)
    assert sum(shares) == total
    moments = (np.arange(20_000) + 0.5) / 20_000 * steps[-1]
    nearest = np.abs(moments[:, None] - np.array(steps)).argmin(1)
    expected = np.bincount(nearest, minlength=len(steps)) / len(moments) * total
    np.testing.assert_allclose(shares, expected, atol=1.01 + total / 20_000)


def test_mixtures_name_the_right_actors() -> None:
    medium, expert = small_recipe("medium-expert").named_steps
    packaged = list(load_snapshots("hopper-tqc-0"))
    assert plan_streams(small_recipe("medium")) == [[(medium, 30)]]
    assert plan_streams(small_recipe("medium-expert")) == [[(medium, 15)], [(expert, 15)]]
    (replay,) = plan_streams(small_recipe("medium-replay", steps=1_000))
    assert [step for step, _ in replay] == [step for step in packaged if step <= medium]
    (full,) = plan_streams(small_recipe("full-replay", steps=1_000))
    assert [step for step, _ in full] == packaged


def test_noise_scales_the_spread_of_actions_alone() -> None:
    weights = load_snapshots("hopper-tqc-0")[180_032]
    observation = np.repeat(np.random.default_rng(0).normal(size=(1, 11)) * 0.1, 4_000, axis=0)
    mode = np.arctanh(act(weights, observation)[0])

    def drawn(noise: float) -> np.ndarray:
        return np.arctanh(act(weights, observation, np.random.default_rng(1), noise))

    np.testing.assert_allclose(drawn(0.0)[0], mode, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(drawn(0.5) - mode, (drawn(0.25) - mode) * 2, rtol=0.02, atol=2e-3)


def test_recorded_actions_are_the_actors_own_and_physics_replays() -> None:
    """Replaying the recorded actions from the same start gives the recorded numbers."""
    weights = load_snapshots("hopper-tqc-0")[180_032]
    episodes = record_actors("Hopper-v5", [(weights, 40)], copies=2, seed=5, progress=False)
    assert sum(len(e.rewards) for e in episodes) == 80
    env = gym.make("Hopper-v5")
    for copy in range(2):
        observation, _ = env.reset(seed=5 + copy)
        first = episodes[copy]
        np.testing.assert_array_equal(first.observations[0], observation)
        for t, action in enumerate(first.actions):
            observation, reward, terminated, _, _ = env.step(action)
            np.testing.assert_array_equal(first.observations[t + 1], observation)
            assert first.rewards[t] == reward
            assert terminated == (first.terminated and t + 1 == len(first.actions))
    env.close()
    mode = act(weights, episodes[0].observations[:-1])
    assert not np.array_equal(mode, episodes[0].actions)  # exploration noise
    assert (
        np.corrcoef(np.arctanh(mode).ravel(), np.arctanh(episodes[0].actions).ravel())[0, 1] > 0.5
    )


def test_locomotion_repeats_for_a_seed_and_changes_with_it() -> None:
    def recorded(seed: int) -> str:
        recipe = small_recipe("medium-replay", steps=60, seed=seed)
        return from_episodes(record_locomotion(recipe, progress=False), "x").fingerprint()

    assert recorded(0) == recorded(0) != recorded(1)


def test_medium_expert_begins_with_medium() -> None:
    medium, both = (
        from_episodes(record_locomotion(small_recipe(mixture, steps), progress=False), "x")
        for mixture, steps in (("medium", 30), ("medium-expert", 60))
    )
    assert len(both) == 2 * len(medium) == 180
    keep = torch.arange(medium.episodes)
    assert both.select_episodes(keep).fingerprint() == medium.fingerprint()


@pytest.mark.parametrize("robot", ENVIRONMENTS)
def test_a_small_sample_agrees_with_the_committed_table(robot: str) -> None:
    """Ten episodes' worth of steps; the table's own numbers come from two hundred or more."""
    name = f"{robot}-medium"
    recipe = replace(RECIPES[name], steps=1_500, copies=8, seed=77)
    dataset = from_episodes(record_locomotion(recipe, progress=False), name)
    scores = normalized_score(robot, dataset.episode_returns.double().numpy())
    # Whole episodes alone: a sample this short has many that the end cut off.
    ended = dataset.terminated.view(-1)[dataset.last] | torch.tensor(
        np.bincount(dataset.episode.numpy()) == 1_000
    )
    scores, row = scores[ended.numpy()], DATASETS[name]
    assert len(scores) >= 8
    error = float(row["deviation_ours"]) / np.sqrt(len(scores))
    # Short samples end more of their short episodes than of their long ones: five points more.
    assert abs(scores.mean() - float(row["mean_ours"])) < 3 * error + 5
    assert scores.max() <= float(row["best_ours"]) + 10


def test_committed_table_is_of_these_recipes() -> None:
    assert set(DATASETS) == set(RECIPES)
    for name, row in DATASETS.items():
        recipe = RECIPES[name]
        assert int(row["transitions_ours"]) == recipe.steps * recipe.copies
        assert row["training"] == recipe.training
        assert (row["medium"], row["expert"]) == tuple(
            str(step or "") for step in (recipe.medium, recipe.expert)
        )


def test_time_limit_truncates_and_a_fall_terminates() -> None:
    untrained = load_snapshots("hopper-tqc-0")[64]
    fallen = record_actors("Hopper-v5", [(untrained, 400)], copies=1, seed=0, progress=False)
    assert len(fallen) > 1
    assert all(e.terminated for e in fallen[:-1])
    runner = load_snapshots("halfcheetah-tqc-0")[80_000]
    stream = [(runner, 1_003)]
    limited = record_actors("HalfCheetah-v5", stream, copies=1, seed=0, progress=False)
    assert [len(e.rewards) for e in limited] == [1000, 3]
    assert not any(e.terminated for e in limited)


def test_locomotion_is_stored_with_its_references(datasets: Path) -> None:
    task = replace(get_task("hopper-medium"), recipe=small_recipe("medium"))
    collected = collect(task, progress=False)
    assert load_task(task).fingerprint() == collected.fingerprint()
    stored = minari.load_dataset(task.dataset)
    assert stored.spec.env_spec.id == "Hopper-v5"
    metadata = json.loads((local_path(task.dataset) / "metadata.json").read_text())
    assert metadata["ref_min_score"] == task.reference_min
    assert metadata["ref_max_score"] == task.reference_max
    assert "180032" in metadata["algorithm_name"]
