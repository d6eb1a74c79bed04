"""Hands, kitchen, ants: rewards, ends and observations as D4RL's references assume them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from minari.data_collector import EpisodeBuffer

from ipd_lite.data.minari_files import load_minari
from ipd_lite.data.spaces import canonical
from ipd_lite.paper.nets import Features
from ipd_lite.study.run import run
from ipd_lite.tasks.registry import TASKS, get_task
from ipd_lite.tasks.robots import HAND_LIMITS, KITCHEN_SUBTASKS, PEN_DROPPED
from tests.test_minari import store_buffers


def random_episode(env: gym.Env[Any, Any], seed: int) -> tuple[float, int, bool]:
    """Return, steps and termination of uniformly random actions."""
    generator = np.random.default_rng(seed)
    env.reset(seed=seed)
    total, steps = 0.0, 0
    while True:
        action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        _, reward, terminated, truncated, _ = env.step(action)
        total, steps = total + float(reward), steps + 1
        if terminated or truncated:
            return total, steps, terminated


@pytest.mark.parametrize(("hand", "within"), [("door", 3.0), ("hammer", 8.0), ("relocate", 6.0)])
def test_random_policy_earns_d4rls_reference(hand: str, within: float) -> None:
    """The reference is a mean over D4RL's own simulator: an independent witness of the sign."""
    task = get_task(f"{hand}-human")
    corrected = task.make()
    plain = gym.make(f"AdroitHand{hand.capitalize()}-v1", max_episode_steps=HAND_LIMITS[hand])
    found = [random_episode(corrected, seed)[0] for seed in range(3)]
    assert np.mean(found) == pytest.approx(task.reference_min, abs=within)
    as_installed = random_episode(plain, 0)[0]
    assert as_installed > found[0] + 5  # the palm's distance is paid for instead of charged
    corrected.close()
    plain.close()


def test_pen_ends_when_dropped_and_the_planner_knows_it() -> None:
    task = get_task("pen-human")
    assert task.terminated
    env, generator = task.make(), np.random.default_rng(0)
    ends = []
    for seed in range(4):
        env.reset(seed=seed)
        for step in range(1, 101):
            action = generator.uniform(-1, 1, 24).astype(np.float32)
            observation, _, terminated, truncated, _ = env.step(action)
            height = env.unwrapped.data.xpos[env.unwrapped.obj_body_id][2]  # type: ignore[attr-defined]
            assert terminated == (height < PEN_DROPPED)
            assert task.terminated(torch.tensor(observation)[None]).tolist() == [terminated]
            assert truncated == (step == 100)
            if terminated or truncated:
                ends.append(terminated)
                break
    assert any(ends)
    env.close()


@pytest.mark.parametrize("hand", HAND_LIMITS)
def test_hands_fit_their_datasets(hand: str) -> None:
    env = get_task(f"{hand}-expert").make()
    observation, _ = env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(np.zeros(env.action_space.shape, np.float32))
    assert type(reward) is float and type(info["success"]) is bool
    assert not terminated and not truncated
    widths = {"pen": (45, 24), "door": (39, 28), "hammer": (46, 26), "relocate": (39, 30)}
    assert (*observation.shape, *env.action_space.shape) == widths[hand]
    env.close()


# ---------------------------------------------------------------- kitchen


@pytest.fixture(scope="module")
def kitchen(session_datasets: object) -> str:
    """Random demonstrations in Minari's own format, recorded from FrankaKitchen-v1 itself.

    The kettle's goal is moved to where the kettle stands, so that a subtask is finished.
    """
    subtasks = list(KITCHEN_SUBTASKS["complete"])
    # Gymnasium's checker dislikes that all observations share one goal array.
    env = gym.make("FrankaKitchen-v1", tasks_to_complete=subtasks, disable_env_checker=True)
    generator = np.random.default_rng(0)
    buffers = []
    for episode in range(2):
        observation, _ = env.reset(seed=episode)
        if episode == 1:
            kitchen: Any = env.unwrapped
            kitchen.goal["kettle"] = np.array(observation["achieved_goal"]["kettle"])
        observations, actions, rewards = [], [], []
        for _ in range(6):
            observations.append(observation)
            actions.append(generator.uniform(-1, 1, 9))
            observation, reward, _, _, _ = env.step(actions[-1])
            rewards.append(float(reward))
        observations.append(observation)

        def stacked(key: str, steps: list[Any]) -> dict[str, Any]:
            return {name: np.stack([o[key][name] for o in steps]) for name in steps[0][key]}

        buffers.append(
            EpisodeBuffer(
                observations={
                    "observation": np.stack([o["observation"] for o in observations]),
                    "achieved_goal": stacked("achieved_goal", observations),
                    "desired_goal": stacked("desired_goal", observations),
                },
                actions=np.stack(actions),
                rewards=rewards,
                terminations=[False] * 6,
                truncations=[False] * 5 + [True],
            )
        )
    space = env.observation_space
    assert isinstance(space, Dict)
    store_buffers(buffers, space, env.action_space, "test/kitchen-v0")
    env.close()
    return "test/kitchen-v0"


def test_kitchen_observations_and_goals_are_flattened_in_order(kitchen: str) -> None:
    data = load_minari(kitchen)
    assert data.observations.shape == (12, 11 + 11 + 59)
    task = get_task("kitchen-complete")
    env = task.make()
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(data.observations[0].numpy(), observation, atol=2e-3)
    # Sorted keys: kettle (7), light switch (2), microwave (1), slide cabinet (1); then the goals.
    nested = gym.make(task.environment).reset(seed=0)[0]
    wanted = np.array([-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06, -0.69, -0.05, -0.75, 0.37])
    np.testing.assert_allclose(data.observations[0, 11:22].numpy(), wanted, atol=1e-6)
    np.testing.assert_array_equal(observation[11:18], nested["desired_goal"]["kettle"])
    assert observation.shape == env.observation_space.shape == (81,)


def test_kitchen_reward_counts_newly_finished_subtasks(kitchen: str) -> None:
    data = load_minari(kitchen)
    assert data.episode_returns.tolist() == [0.0, 1.0]
    assert get_task("kitchen-complete").normalized_score(1.0) == 25


def test_kitchen_normalization_survives_constant_goals(kitchen: str) -> None:
    data = load_minari(kitchen)
    features = Features(81)
    features.fit(data.observations[:6])
    normalized = features(data.observations[:6])
    assert normalized.isfinite().all()
    assert normalized[:, 11:22].abs().max() < 1e-5  # constant in one episode
    moving = data.observations[:6].std(0, correction=0) > 1e-6
    torch.testing.assert_close(
        normalized[:, moving].std(0, correction=0), torch.ones(int(moving.sum())), atol=1e-2, rtol=0
    )


def test_kitchen_runs_from_data_to_score(kitchen: str, tmp_path: Any) -> None:
    from ipd_lite.tasks.own_data import open_task

    task = open_task("kitchen-complete", kitchen, horizon=3)
    scores = run(task, "iql", 0, task.config("smoke"), out=tmp_path, device="cpu")
    assert (scores["return_mean"] >= 0).all()


# ---------------------------------------------------------------- ants


@pytest.mark.parametrize("name", ["antmaze-umaze", "antmaze-medium-play"])
def test_ant_maze_has_one_start_and_one_goal_and_ends_there(name: str) -> None:
    task = get_task(name)
    env = task.make()
    starts, goals = zip(
        *((o[:2], o[2:4]) for o in (env.reset(seed=s)[0] for s in range(3))), strict=True
    )
    # Gymnasium-Robotics moves both by up to a quarter of a cell (4 m) in every direction.
    assert np.ptp(starts, axis=0).max() <= 2 and np.ptp(goals, axis=0).max() <= 2
    assert np.linalg.norm(starts[0] - goals[0]) > 6
    assert env.observation_space.shape == (31,)
    ant: Any = env.unwrapped
    _, reward, terminated, *_ = env.step(np.zeros(8, np.float32))
    assert (reward, terminated) == (0.0, False)
    ant.goal = np.array(ant.data.qpos[:2])
    _, reward, terminated, *_ = env.step(np.zeros(8, np.float32))
    assert (reward, terminated) == (1.0, True)
    env.close()


class Nested(gym.Env[Any, Any]):
    """Observations whose keys are declared and given in no order."""

    inner = Dict([("b", Box(0, 9, (1,))), ("a", Box(0, 9, (2,)))])
    observation_space = Dict([("z", Box(0, 9, (1,))), ("c", inner)])
    action_space = Box(-1, 1, (1,))

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return {"z": [9.0], "c": {"b": [3.0], "a": [1.0, 2.0]}}, {}


def test_flattening_sorts_keys_at_every_level() -> None:
    env = canonical(Nested())
    assert env.reset()[0].tolist() == [1, 2, 3, 9]
    assert env.observation_space.shape == (4,)


def test_scores_of_ant_mazes_are_not_shifted_but_learning_is(datasets: Any, tmp_path: Any) -> None:
    from dataclasses import replace

    from ipd_lite.study.pipeline import Pipeline
    from ipd_lite.tasks.collect import collect
    from tests.test_collect import tiny_task

    task = replace(tiny_task(), reward_shift=-1.0)
    recorded = collect(task, progress=False)
    pipeline = Pipeline(task, 0, task.config("smoke"), tmp_path, torch.device("cpu"))
    assert torch.equal(pipeline.recorded.rewards, recorded.rewards)
    assert torch.equal(pipeline.dataset.rewards, recorded.rewards - 1)
    reward = pipeline.known.scaled(pipeline.reward_scale).reward
    assert reward is not None
    batch = recorded.batch(torch.arange(5))
    known = reward(batch.observations, batch.actions, batch.next_observations)
    assert torch.equal(known, pipeline.dataset.rewards[:5])
    scores = run(task, "behaviour", 0, task.config("smoke"), out=tmp_path, device="cpu")
    assert (scores["return_mean"] >= -60).all()
    assert TASKS["antmaze-umaze"].reward_shift == -1
