"""The hot loops at published sizes and at the lesson's. `make bench` prints the table."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest
import torch

from ipd_lite import settings as configs
from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.paper.acting import TransformerActor
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.distillation import make_policy, prepare_examples, train_policy
from ipd_lite.paper.imagination import plan_in_chunks, planning_model
from ipd_lite.paper.training import AS_WRITTEN, Compute
from ipd_lite.paper.values import Values, train_values
from ipd_lite.paper.world_model import WorldModel, train_world_model
from ipd_lite.tasks import registry as tasks
from ipd_lite.tasks.mazes import make_point_maze
from ipd_lite.tasks.rollout import rollout
from tests.benchmarks import flops
from tests.benchmarks.conftest import bfloat16_pays
from tests.benchmarks.usual import (
    UsualDistillation,
    UsualEnsemble,
    UsualIQL,
    UsualTransformer,
    usual_batch,
    usual_episode,
    usual_plan,
)

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
        torch.get_default_device(),
    )


OPTIONS = {
    "compile": Compute(compile=True),
    "autocast": Compute(autocast=True),
    "compile, autocast": Compute(compile=True, autocast=True),
}


@pytest.fixture
def chosen(benchmark):
    """chosen(option): its ComputeConfig; skips what would only take time."""

    def choose(option: str) -> Compute:
        if benchmark.disabled:
            pytest.skip("tests/test_compute.py tests the options")
        if OPTIONS[option].autocast and not bfloat16_pays():
            pytest.skip("this machine does not multiply bfloat16 faster than float32")
        return OPTIONS[option]

    return choose


IQL = "IQL, 2 x 256, batch 256"


def test_iql_usual(measure, repeat):
    """The published size: 11 observations, 3 actions, two hidden layers of 256."""
    data, usual = noise(11, 3), UsualIQL(PUBLISHED_VALUES, 11, 3)
    count = repeat(60)
    measure(
        f"usual {IQL}",
        lambda: [usual.update(usual_batch(data, 256)) for _ in range(count)],
        count,
    )


def test_iql(measure, repeat):
    config = configs.override(PUBLISHED_VALUES, {"updates": repeat(100)})
    data = noise(11, 3)
    measure(
        IQL,
        lambda: train_values(data, config, seed=0),
        config.updates,
        flops=flops.iql_update(11, 3, 256, 2, 256),
        against=f"usual {IQL}",
    )


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("option", OPTIONS)
def test_iql_options(measure, repeat, chosen, option):
    """The same, with the losses compiled, or in bfloat16. The first call, which compiles, is not
    counted."""
    config, compute = configs.override(PUBLISHED_VALUES, {"updates": repeat(100)}), chosen(option)
    data = noise(11, 3)
    train_values(data, config, seed=0, compute=compute)
    measure(
        f"{IQL}, {option}",
        lambda: train_values(data, config, seed=0, compute=compute),
        config.updates,
        flops=flops.iql_update(11, 3, 256, 2, 256),
        against=f"usual {IQL}",
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


USUAL_TRANSFORMER = "usual transformer, three tokens a step"


def big_transformer_config(**changes):
    return configs.override(
        LESSON.distillation,
        {"width": 128, "layers": 3, "context": 20, "evaluations": 1} | changes,
    )


def test_transformer_usual(measure, repeat):
    """Width 128, 3 layers, 20 steps of context, batch 64, with the Q term (2 x 256)."""
    data, count = noise(17, 6), repeat(4)
    usual = UsualDistillation(big_transformer_config(), PUBLISHED_VALUES, 17, 6)
    conditions = torch.randn(len(data))
    measure(
        USUAL_TRANSFORMER,
        lambda: [usual.update(data, conditions) for _ in range(count)],
        count,
        rounds=3,
    )


@pytest.mark.parametrize("option", [None, "autocast"], ids=["plain", "autocast"])
@pytest.mark.parametrize("fused", [False, True], ids=["three-tokens", "fused-token"])
def test_transformer(measure, repeat, chosen, fused, option):
    compute = chosen(option) if option else AS_WRITTEN
    config = big_transformer_config(fused_tokens=fused, updates=repeat(10 if fused else 4))
    data = noise(17, 6)
    values = Values(PUBLISHED_VALUES, 17, 6).eval().requires_grad_(False)
    examples = prepare_examples(data, values, config, 0.99, bootstrap_steps=5)
    name = f"transformer, {'one fused token' if fused else 'three tokens'} a step"
    measure(
        f"{name}, {option}" if option else name,
        lambda: train_policy(examples, values, config, seed=0, episode_steps=100, compute=compute),
        config.updates,
        flops=flops.transformer_update(
            17, 6, batch=64, steps=20, width=128, layers=3, fused=fused, q_width=256, q_depth=2
        ),
        against=USUAL_TRANSFORMER,
    )


def test_transformer_lesson(measure, repeat):
    config = configs.override(LESSON.distillation, {"updates": repeat(60), "evaluations": 1})
    data = noise(4, 2)
    values = Values(LESSON.values, 4, 2, (0, 1)).eval().requires_grad_(False)
    examples = prepare_examples(data, values, config, 0.99, bootstrap_steps=5)
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
        lambda: train_policy(examples, values, config, seed=0, episode_steps=100),
        config.updates,
        flops=count,
    )


def big_world_model_config(**changes):
    fields = {"members": 7, "elites": 4, "width": 200, "depth": 4, "fourier_features": 0}
    return configs.override(LESSON.world_model, fields | changes)


WORLD_MODEL = "world model, 7 members of 4 x 200"


def test_world_model_usual(measure, repeat):
    """Seven members of 4 x 200, batch 256 each, reward and termination learned."""
    usual, count = UsualEnsemble(big_world_model_config(), 23, 18), repeat(10)
    rows = torch.randn(4000, 23), torch.randn(4000, 18), torch.zeros(4000)
    measure(
        f"usual {WORLD_MODEL}",
        lambda: [usual.update(*rows) for _ in range(count)],
        count,
    )


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("option", [None, "autocast", "compile, autocast"])
def test_world_model(measure, repeat, chosen, option):
    compute = chosen(option) if option else AS_WRITTEN
    config = big_world_model_config(updates=repeat(20))
    data = noise(17, 6)
    if compute.compile:
        train_world_model(data, config, seed=0, compute=compute)
    measure(
        f"{WORLD_MODEL}, {option}" if option else WORLD_MODEL,
        lambda: train_world_model(data, config, seed=0, compute=compute),
        config.updates,
        flops=flops.world_model_update(23, 2 * 18 + 1, members=7, width=200, depth=4, batch=256),
        against=f"usual {WORLD_MODEL}",
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
            known=task.known,
        ),
        config.updates,
        flops=flops.world_model_update(
            6 + 2 * config.fourier_features, 8, members=5, width=64, depth=3, batch=256
        ),
    )


PLANNING = "planning, 64 candidates x 5 steps"


def test_planning_usual(measure, repeat):
    """1,000 states, 64 candidates, 5 steps ahead, the mean of all seven members at every step."""
    states = torch.randn(repeat(1000, 10), 17)
    usual = UsualIQL(PUBLISHED_VALUES, 17, 6)
    ensemble = UsualEnsemble(big_world_model_config(), 23, 18)

    def propose(rows, depth):
        mean = torch.tanh(usual.actor(rows))
        return (mean + 0.3 * torch.randn_like(mean)).clamp(-1, 1)

    measure(
        f"usual {PLANNING}",
        lambda: usual_plan(
            ensemble, usual.v, propose, states, candidates=64, horizon=5, discount=0.99
        ),
        len(states) * 64 * 5,
        unit="transitions",
        rounds=2,
    )


@pytest.mark.parametrize("option", [None, "autocast"], ids=["plain", "autocast"])
def test_planning(measure, repeat, chosen, option):
    """The same states; each candidate follows one of four elites."""
    compute = chosen(option) if option else AS_WRITTEN
    states = torch.randn(repeat(1000, 10), 17)
    config = configs.override(LESSON.planner, {"candidates": 64, "horizon": 5})
    values = Values(PUBLISHED_VALUES, 17, 6).eval().requires_grad_(False)
    world_model = WorldModel(big_world_model_config(), 17, 6).eval().requires_grad_(False)
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    model = planning_model(values, world_model, config, 0.99, generator, compute)
    measure(
        f"{PLANNING}, {option}" if option else PLANNING,
        lambda: plan_in_chunks(states, model, config, generator),
        len(states) * 64 * 5,
        unit="transitions",
        flops=flops.imagined_transition(
            17, 6, width=200, depth=4, outputs=37, policy_width=256, policy_depth=2, horizon=5
        ),
        note="planning: 4 elites, because candidates must divide evenly among them",
        against=f"usual {PLANNING}",
    )


def test_planning_lesson(measure, repeat):
    states = torch.randn(repeat(1000, 10), 4)
    task = tasks.get_task("pointmaze-medium")
    values = Values(LESSON.values, 4, 2, (0, 1)).eval().requires_grad_(False)
    world_model = WorldModel(LESSON.world_model, 4, 2, task.known)
    world_model.eval().requires_grad_(False)
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
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


EVALUATION = "evaluation, 100 episodes, 25 side by side"
ACTION_REPEAT = signature(make_point_maze).parameters["action_repeat"].default


@pytest.mark.simulator
def test_evaluation_usual(measure, repeat):
    """Three tokens a step and one environment, as long as the policy of the lesson sees."""
    env = tasks.get_task("pointmaze-medium").make()
    values = UsualIQL(PUBLISHED_VALUES, 4, 2)
    policy = UsualTransformer(4, 2, LESSON.distillation).eval()
    flat_env, context = env, LESSON.distillation.context
    episodes = range(repeat(4, 1))

    def work():
        return sum(usual_episode(flat_env, policy, values.v, context, seed) for seed in episodes)

    measure(
        "usual evaluation, one environment at a time",
        work,
        work() * ACTION_REPEAT,
        unit="env steps",
        rounds=3,
    )


@pytest.mark.simulator
def test_evaluation(measure, repeat):
    """An untrained transformer of the lesson's size in 100 episodes of the medium maze."""
    task = tasks.get_task("pointmaze-medium")
    config = configs.override(LESSON.evaluation, {"episodes": repeat(100)})
    values = Values(LESSON.values, 4, 2, (0, 1)).eval().requires_grad_(False)
    policy = make_policy(4, 2, LESSON.distillation, 100).eval().requires_grad_(False)
    actor = TransformerActor(policy, values=values)
    steps = int(rollout(task, actor, config).steps.sum()) * ACTION_REPEAT
    measure(
        EVALUATION,
        lambda: rollout(task, actor, config),
        steps,
        unit="env steps",
        rounds=3,
        note=f"evaluation: one decision of the policy is {ACTION_REPEAT} steps of the environment",
        against="usual evaluation, one environment at a time",
    )
