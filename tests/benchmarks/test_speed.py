"""The hot loops at published sizes and at the lesson's. `make bench` prints the table."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest
import torch

from ipd_lite import config as configs
from ipd_lite import tasks
from ipd_lite.data import Episode, OfflineDataset, from_episodes
from ipd_lite.distill import TransformerActor, make_policy, prepare_lessons, train_policy
from ipd_lite.evaluate import rollout
from ipd_lite.imagine import plan_in_chunks, planning_model
from ipd_lite.iql import Values, train_values
from ipd_lite.mazes import make_point_maze
from ipd_lite.world_model import WorldModel, train_world_model
from tests.benchmarks import flops

LESSON = configs.preset("lesson")
PUBLISHED_VALUES = configs.override(
    LESSON.values,
    {
        "width": 256,
        "q_networks": 2,
        "v_networks": 1,
        "q_reduction": "min",
        "layer_norm": False,
        "fourier_features": 0,
    },
)


@pytest.fixture
def repeat(benchmark):
    """How many units of work in a round: few when the benchmarks only run as tests."""
    return lambda count, least=2: least if benchmark.disabled else count


def noise(observations: int, actions: int, episodes: int = 40, steps: int = 100) -> OfflineDataset:
    """Random recordings: speed does not depend on what is learned."""
    generator = np.random.default_rng(0)
    return from_episodes(
        [
            Episode(
                generator.normal(size=(steps + 1, observations)),
                generator.uniform(-1, 1, (steps, actions)),
                generator.normal(size=steps),
                terminated=False,
            )
            for _ in range(episodes)
        ],
        "noise",
    )


def test_iql(measure, repeat):
    """The published size: 11 observations, 3 actions, two hidden layers of 256."""
    config = configs.override(PUBLISHED_VALUES, {"updates": repeat(100)})
    data = noise(11, 3)
    measure(
        "IQL, 2 x 256, batch 256",
        lambda: train_values(data, config, seed=0),
        config.updates,
        flops=flops.iql_update(11, 3, 256, 2, 256),
    )


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("option", ["compile", "autocast"])
def test_iql_options(benchmark, measure, repeat, option):
    """The same, with the losses compiled, or in bfloat16. The first call, which compiles, is not
    counted."""
    if benchmark.disabled:
        pytest.skip("compiling takes longer than the rest; tests/test_compute.py has the options")
    config = configs.override(PUBLISHED_VALUES, {"updates": repeat(100)})
    data, compute = noise(11, 3), configs.ComputeConfig(**{option: True})
    train_values(data, config, seed=0, compute=compute)
    measure(
        f"IQL, 2 x 256, batch 256, {option}",
        lambda: train_values(data, config, seed=0, compute=compute),
        config.updates,
        flops=flops.iql_update(11, 3, 256, 2, 256),
    )


def test_iql_lesson(measure, repeat):
    config = configs.override(LESSON.values, {"updates": repeat(200)})
    data = noise(4, 2)
    features = 4 + 2 * config.fourier_features
    measure(
        f"IQL, lesson preset ({config.depth} x {config.width}, {config.q_networks} Q)",
        lambda: train_values(data, config, seed=0, position_dimensions=(0, 1)),
        config.updates,
        flops=flops.iql_update(features, 2, 64, 2, 256, config.q_networks, config.v_networks),
    )


@pytest.mark.parametrize("fused", [False, True], ids=["three-tokens", "fused-token"])
def test_transformer(measure, repeat, fused):
    """Width 128, 3 layers, 20 steps of context, batch 64, with the Q term (2 x 256)."""
    config = configs.override(
        LESSON.distillation,
        {
            "width": 128,
            "layers": 3,
            "context": 20,
            "fused_tokens": fused,
            "updates": repeat(10 if fused else 4),
            "evaluations": 1,
        },
    )
    data = noise(17, 6)
    values = Values(PUBLISHED_VALUES, 17, 6).eval().requires_grad_(False)
    lessons = prepare_lessons(data, values, config, 0.99, bootstrap_steps=5)
    measure(
        f"transformer, {'one fused token' if fused else 'three tokens'} a step",
        lambda: train_policy(lessons, values, config, seed=0, episode_steps=100),
        config.updates,
        flops=flops.transformer_update(
            17, 6, batch=64, steps=20, width=128, layers=3, fused=fused, q_width=256, q_depth=2
        ),
    )


def test_transformer_lesson(measure, repeat):
    config = configs.override(LESSON.distillation, {"updates": repeat(60), "evaluations": 1})
    data = noise(4, 2)
    values = Values(LESSON.values, 4, 2, (0, 1)).eval().requires_grad_(False)
    lessons = prepare_lessons(data, values, config, 0.99, bootstrap_steps=5)
    features = 4 + 2 * LESSON.values.fourier_features
    count = flops.transformer_update(
        4,
        2,
        batch=64,
        steps=5,
        width=64,
        layers=1,
        fused=True,
        q_width=64,
        q_depth=2,
        twins=LESSON.values.q_networks,
        q_features=features,
    )
    measure(
        "transformer, lesson preset",
        lambda: train_policy(lessons, values, config, seed=0, episode_steps=100),
        config.updates,
        flops=count,
    )


def big_world_model_config(**changes):
    fields = {"members": 7, "elites": 4, "width": 200, "depth": 4, "fourier_features": 0}
    return configs.override(LESSON.world_model, fields | changes)


def test_world_model(measure, repeat):
    """Seven members of 4 x 200, batch 256 each, reward and termination learned."""
    config = big_world_model_config(updates=repeat(20))
    data = noise(17, 6)
    measure(
        "world model, 7 members of 4 x 200",
        lambda: train_world_model(data, config, seed=0),
        config.updates,
        flops=flops.world_model_update(23, 2 * 18 + 1, members=7, width=200, depth=4, batch=256),
    )


def test_world_model_lesson(measure, repeat):
    config = configs.override(LESSON.world_model, {"updates": repeat(60), "evaluate_every": 1000})
    data = noise(4, 2)
    task = tasks.get_task("pointmaze-medium")
    measure(
        "world model, lesson preset (5 of 3 x 64)",
        lambda: train_world_model(
            data,
            config,
            seed=0,
            position_dimensions=(0, 1),
            reward=task.reward,
            terminated=task.terminated,
        ),
        config.updates,
        flops=flops.world_model_update(
            6 + 2 * config.fourier_features, 8, members=5, width=64, depth=3, batch=256
        ),
    )


def test_planning(measure, repeat):
    """1,000 states, 64 candidates, 5 steps ahead; each candidate follows one of four elites."""
    states = torch.randn(repeat(1000, 10), 17)
    config = configs.override(LESSON.planner, {"candidates": 64, "horizon": 5})
    values = Values(PUBLISHED_VALUES, 17, 6).eval().requires_grad_(False)
    world_model = WorldModel(big_world_model_config(), 17, 6).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    model = planning_model(values, world_model, config, 0.99, generator)
    measure(
        "planning, 64 candidates x 5 steps",
        lambda: plan_in_chunks(states, model, config, generator),
        len(states) * 64 * 5,
        unit="transitions",
        flops=flops.imagined_transition(
            17, 6, width=200, depth=4, outputs=37, policy_width=256, policy_depth=2, horizon=5
        ),
        note="planning: 4 elites, because candidates must divide evenly among them",
    )


def test_planning_lesson(measure, repeat):
    states = torch.randn(repeat(1000, 10), 4)
    task = tasks.get_task("pointmaze-medium")
    values = Values(LESSON.values, 4, 2, (0, 1)).eval().requires_grad_(False)
    world_model = WorldModel(LESSON.world_model, 4, 2, (0, 1), task.reward, task.terminated)
    world_model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    model = planning_model(values, world_model, LESSON.planner, 0.99, generator)
    candidates, horizon = LESSON.planner.candidates, LESSON.planner.horizon
    features = 2 * LESSON.values.fourier_features
    count = flops.mlp(6 + features, 64, 3, 8, needs="forward")
    count += flops.mlp(4, 64, 2, 2, needs="forward")
    critics = LESSON.values.v_networks
    count += critics * flops.mlp(4 + features, 64, 2, 1, needs="forward") // horizon
    measure(
        "planning, lesson preset",
        lambda: plan_in_chunks(states, model, LESSON.planner, generator),
        len(states) * candidates * horizon,
        unit="transitions",
        flops=count,
    )


def test_evaluation(measure, repeat):
    """An untrained transformer of the lesson's size in 100 episodes of the medium maze."""
    task = tasks.get_task("pointmaze-medium")
    config = configs.override(LESSON.evaluation, {"episodes": repeat(100)})
    values = Values(LESSON.values, 4, 2, (0, 1)).eval().requires_grad_(False)
    policy = make_policy(4, 2, LESSON.distillation, 100).eval().requires_grad_(False)
    actor = TransformerActor(policy, values=values)
    repeat_action = signature(make_point_maze).parameters["action_repeat"].default
    steps = int(rollout(task, actor, config).steps.sum()) * repeat_action
    measure(
        "evaluation, 100 episodes, 25 side by side",
        lambda: rollout(task, actor, config),
        steps,
        unit="env steps",
        rounds=3,
        note=f"evaluation: one decision of the policy is {repeat_action} steps of the environment",
    )
