"""Rollouts against a plain loop over one environment, and intervals against known properties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ipd_lite.paper.acting import Actor, FunctionActor, TransformerActor
from ipd_lite.paper.transformer import TransformerPolicy
from ipd_lite.report.statistics import bootstrap_interval, paired_interval
from ipd_lite.settings import EvaluationConfig
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.rollout import Rollouts, rollout
from ipd_lite.tasks.task import Task

LIMIT = 7


class Line(gym.Env[Any, Any]):
    """x grows by the action; the reward is x; terminated beyond 1, truncated after 7 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-0.5, 0.5, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.time = float(self.np_random.uniform(-1, 1)), 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert -0.5 <= action[0] <= 0.5
        self.x, self.time = self.x + float(action[0]), self.time + 1
        return self.observe(), self.x, self.x > 1, False, {"success": self.x > 1}

    def observe(self) -> Any:
        return np.array([self.x, self.time / LIMIT])


class QuietLine(Line):
    """The same without a word about success."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return *super().step(action)[:-1], {}


for name, kind in (("Line", Line), ("QuietLine", QuietLine)):
    gym.register(
        f"ipd_lite_tests/{name}-v0",
        entry_point=lambda kind=kind: TimeLimit(kind(), LIMIT),
        disable_env_checker=True,
        order_enforce=False,
    )


def line_task(name: str = "Line") -> Task:
    return Task(name, "", f"ipd_lite_tests/{name}-v0", "none", 0.0, 1.0, "")


def climb(observations: Tensor) -> Tensor:
    """Upwards from above 0, else slowly down: some episodes arrive, others run out of time."""
    return torch.where(observations[:, :1] > 0, 0.6, -0.2)


def plain_loop(
    task: Task, function: Callable[[Tensor], Tensor], config: EvaluationConfig
) -> Rollouts:
    """One environment, one episode after the other, one observation at a time."""
    env = task.make()
    space: Any = env.action_space
    returns, steps, success = [], [], []
    for number in range(config.episodes):
        observation, total, count, ended = env.reset(seed=config.seed + number)[0], 0.0, 0, False
        while not ended:
            action = function(torch.tensor(observation, dtype=torch.float32)[None])[0].numpy()
            observation, reward, terminated, truncated, info = env.step(action * space.high)
            total, count, ended = total + float(reward), count + 1, terminated or truncated
        returns.append(total)
        steps.append(count)
        success.append(float(info.get("success", np.nan)))
    return Rollouts(np.array(returns), np.array(steps), np.array(success))


def assert_same(first: Rollouts, second: Rollouts) -> None:
    np.testing.assert_allclose(first.returns, second.returns, rtol=1e-5)
    np.testing.assert_array_equal(first.steps, second.steps)
    np.testing.assert_array_equal(first.success, second.success)


@pytest.mark.parametrize("slots", [1, 3, 10, 50])
def test_rollout_equals_a_plain_loop_for_any_number_of_slots(slots: int) -> None:
    config = EvaluationConfig(episodes=10, slots=slots, seed=5)
    found = rollout(line_task(), FunctionActor(climb), config)
    assert_same(found, plain_loop(line_task(), climb, config))
    # Terminated episodes are short and succeed, truncated ones last to the limit.
    arrived = found.success == 1
    assert 0 < arrived.sum() < 10
    assert (found.steps[arrived] < LIMIT).all() and (found.steps[~arrived] == LIMIT).all()


def test_maze_rollout_equals_a_plain_loop() -> None:
    task = get_task("pointmaze-umaze")
    goal = torch.tensor([-1.0, -1.0])

    def along_the_wall(observations: Tensor) -> Tensor:
        return (3 * (goal - observations[:, :2]) - observations[:, 2:]).clamp(-1, 1)

    config = EvaluationConfig(episodes=5, slots=2)
    found = rollout(task, FunctionActor(along_the_wall), config)
    assert_same(found, plain_loop(task, along_the_wall, config))
    np.testing.assert_array_equal(found.returns, -found.steps)


def test_success_is_unknown_where_the_environment_does_not_say() -> None:
    found = rollout(line_task("QuietLine"), FunctionActor(climb), EvaluationConfig(episodes=4))
    assert np.isnan(found.success).all() and (found.steps > 0).all()


def test_actions_beyond_the_bounds_are_clipped() -> None:
    config = EvaluationConfig(episodes=4, slots=2)

    def wild(observations: Tensor) -> Tensor:
        return 100 * climb(observations)

    def sign(observations: Tensor) -> Tensor:
        return climb(observations).sign()

    assert_same(
        rollout(line_task(), FunctionActor(wild), config),
        rollout(line_task(), FunctionActor(sign), config),
    )


class Recorder(FunctionActor):
    """Writes down what each slot was shown."""

    def begin(self, slots: int) -> None:
        self.seen: dict[int, list[tuple[float, float]]] = {slot: [] for slot in range(slots)}
        self.episodes: list[list[tuple[float, float]]] = []

    def reset(self, rows: Tensor) -> None:
        for row in rows.tolist():
            self.seen[row] = []
            self.episodes.append(self.seen[row])

    def act(self, observations: Tensor, rewards: Tensor, rows: Tensor) -> Tensor:
        for i, row in enumerate(rows.tolist()):
            self.seen[row].append((float(observations[i, 0]), float(rewards[i])))
        return super().act(observations, rewards, rows)


def test_every_policy_meets_the_same_starts_and_hears_its_own_rewards() -> None:
    config = EvaluationConfig(episodes=8, slots=3, seed=40)
    env, starts = line_task().make(), []
    for number in range(config.episodes):
        starts.append(env.reset(seed=config.seed + number)[0][0])
    for function in (climb, lambda observations: -climb(observations)):
        actor = Recorder(function)
        rollout(line_task(), actor, config)
        first = [episode[0] for episode in actor.episodes]
        np.testing.assert_allclose(sorted(x for x, _ in first), sorted(starts), rtol=1e-6)
        assert all(reward == 0 for _, reward in first)
        for episode in actor.episodes:
            # In this world the last reward is the position: nobody hears another slot's.
            assert all(x == pytest.approx(reward) for x, reward in episode[1:])


def transformer_actor() -> TransformerActor:
    torch.manual_seed(0)
    policy = TransformerPolicy(2, 1, context=3, width=16, heads=2)
    return TransformerActor(policy.eval().requires_grad_(False), target=3.0)


@pytest.mark.parametrize("make", [lambda: FunctionActor(climb), transformer_actor])
def test_slots_and_repetition_do_not_change_results(make: Callable[[], Actor]) -> None:
    config = EvaluationConfig(episodes=9, slots=4)
    actor = make()
    first, again = (rollout(line_task(), actor, config) for _ in range(2))
    np.testing.assert_array_equal(first.returns, again.returns)
    for slots in (1, 9):
        assert_same(rollout(line_task(), make(), replace(config, slots=slots)), first)
    other = rollout(line_task(), make(), replace(config, seed=7))
    assert not np.array_equal(other.returns, first.returns)


def test_more_episodes_keep_the_first_ones() -> None:
    few, many = (
        rollout(line_task(), FunctionActor(climb), EvaluationConfig(episodes=n, slots=4))
        for n in (5, 12)
    )
    np.testing.assert_array_equal(many.returns[:5], few.returns)


# -- intervals ------------------------------------------------------------------------------------


def test_single_sample_has_no_interval() -> None:
    found = bootstrap_interval(np.array([3.0]))
    assert found.mean == 3.0 and np.isnan(found.low) and np.isnan(found.high)


def test_equal_samples_have_an_interval_of_one_point() -> None:
    found = bootstrap_interval(np.full(4, 2.5))
    assert (found.mean, found.low, found.high) == (2.5, 2.5, 2.5)


samples = st.lists(st.floats(-100, 100), min_size=2, max_size=8).map(np.array)


@given(values=samples)
def test_interval_lies_around_the_mean_inside_the_samples(values: Any) -> None:
    found = bootstrap_interval(values)
    slack = 1e-9 * (1 + np.abs(values).max())
    assert values.min() - slack <= found.low <= found.mean + slack
    assert found.mean - slack <= found.high <= values.max() + slack
    assert found.mean == pytest.approx(values.mean())


def test_interval_covers_the_true_mean_about_as_often_as_it_promises() -> None:
    generator, covered, widths = np.random.default_rng(0), 0, []
    for _ in range(60):
        found = bootstrap_interval(generator.normal(2.0, 1.0, 30), confidence=0.8)
        covered += found.low <= 2.0 <= found.high
        widths.append(found.high - found.low)
    # 80 % of 60 is 48; three standard deviations are 9.
    assert 38 <= covered <= 57
    # The normal approximation: 2 * 1.28 / sqrt(30).
    assert np.mean(widths) == pytest.approx(0.468, rel=0.1)


def test_paired_interval_sees_through_noise_that_seeds_share() -> None:
    luck = np.array([-30.0, 0.0, 10.0, 40.0])
    found = paired_interval(luck + np.array([3.0, 2.0, 3.0, 4.0]), luck)
    assert found.mean == pytest.approx(3.0)
    assert 2.0 <= found.low < 3.0 < found.high <= 4.0


@given(returns=st.floats(-1e4, 1e4))
def test_normalized_score_is_linear_between_its_references(returns: float) -> None:
    task = get_task("pointmaze-umaze")
    assert task.normalized_score(task.reference_min) == 0
    assert task.normalized_score(task.reference_max) == 100
    share = (returns - task.reference_min) / (task.reference_max - task.reference_min)
    assert task.normalized_score(returns) == pytest.approx(100 * share)
