"""The distillation loss by hand, what it is fed, and the actor that remembers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ipd_lite.data.episodes import from_episodes
from ipd_lite.paper.acting import TransformerActor
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.distillation import (
    DistillationConfig,
    Examples,
    distillation_loss,
    make_policy,
    prepare_examples,
    sample_windows,
    timesteps,
    train_policy,
    window_pools,
)
from ipd_lite.paper.imagination import Assessment
from ipd_lite.paper.transformer import TransformerPolicy
from ipd_lite.paper.values import ValueConfig, Values
from tests.helpers import (
    GAMMA,
    Killed,
    KilledCheckpoint,
    counting_episodes,
    same_bits,
    small_dataset,
)

SMALL = DistillationConfig(
    context=3, width=16, heads=2, updates=30, batch_size=16, evaluations=2, ema=0.0
)


class StepValues:
    """V is ten times the step that `counting_episodes` wrote into the observation."""

    def v(self, observations: Tensor) -> Tensor:
        return 10 * observations[..., 1]

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        return 10 * observations[..., 1] - (actions - 0.5).square().sum(-1)


def mixed_dataset() -> OfflineDataset:
    """Real episodes of 3 and 2 steps, then two spliced ones: 2 + 2 and 0 + 3 imagined steps."""
    episodes = counting_episodes([3, 2, 4, 3])
    flags = [None, None, np.array([0, 0, 1, 1], bool), np.ones(3, bool)]
    return from_episodes(
        [replace(e, imagined=f) for e, f in zip(episodes, flags, strict=True)], "mixed"
    )


def assessment_of(suboptimal: list[bool]) -> Assessment:
    nothing = torch.zeros(len(suboptimal))
    return Assessment(nothing, nothing, nothing, torch.tensor(suboptimal))


def lessons_for(
    config: DistillationConfig, values: Any, suboptimal: list[bool] | None = None
) -> Examples:
    return prepare_examples(
        mixed_dataset(),
        values,
        config,
        GAMMA,
        bootstrap_steps=1,
        assessment=None if suboptimal is None else assessment_of(suboptimal),
    )


def test_only_good_recorded_and_imagined_steps_are_regressed_on() -> None:
    suboptimal = [True, False, False, False, True]
    filtered = lessons_for(DistillationConfig(), StepValues(), suboptimal)
    real, first, second = [0, 1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1]
    assert filtered.weights.tolist() == [*real, *first, *second]
    assert filtered.spliced.tolist() == [False] * 5 + [True] * 7
    everything = lessons_for(DistillationConfig(filter_suboptimal=False), StepValues(), suboptimal)
    assert everything.weights.tolist() == [1, 1, 1, 1, 1, *first, *second]
    plain = lessons_for(DistillationConfig(condition="return-to-go"), None)
    assert plain.weights.tolist() == everything.weights.tolist()


def test_conditions_are_values_returns_or_the_larger_of_both() -> None:
    """Rewards are 0 1 2 .. within an episode, V = 10 step; even episodes terminate."""
    lengths, terminates = [3, 2, 4, 3], [True, False, True, False]
    v = [10.0 * step for length in lengths for step in range(length)]
    one_step, to_go = [], []
    for length, terminal in zip(lengths, terminates, strict=True):
        for step in range(length):
            ahead = 0.0 if terminal and step == length - 1 else 10.0 * (step + 1)
            one_step.append(step + GAMMA * ahead)
            to_go.append(float(sum(range(step, length))))
    expected = {
        "value": v,
        "bootstrapped": one_step,
        "maximum": np.maximum(v, one_step),
        "return-to-go": to_go,
    }
    for condition, numbers in expected.items():
        config = DistillationConfig(condition=condition)  # type: ignore[arg-type]
        found = lessons_for(config, StepValues())
        np.testing.assert_allclose(found.conditions, numbers, rtol=1e-6, err_msg=condition)
        np.testing.assert_allclose(found.baseline, v, rtol=1e-6)
    blind = lessons_for(DistillationConfig(), None)
    np.testing.assert_allclose(blind.conditions, to_go)
    assert (blind.baseline == 0).all()


def random_batch(seed: int = 0, size: int = 4, steps: int = 3) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    shape = (size, steps)
    return SimpleNamespace(
        predicted=torch.rand(*shape, 2, generator=generator, dtype=torch.float64) - 0.5,
        actions=torch.rand(*shape, 2, generator=generator, dtype=torch.float64) - 0.5,
        weights=(torch.rand(shape, generator=generator) < 0.6).double(),
        valid=torch.rand(shape, generator=generator) < 0.7,
        q=torch.randn(shape, generator=generator, dtype=torch.float64) - 5,
        baseline=torch.randn(shape, generator=generator, dtype=torch.float64) - 5,
    )


@pytest.mark.parametrize("q_scale", ["advantage", "magnitude", "none"])
def test_loss_against_a_sum_over_single_steps(q_scale: str) -> None:
    batch = random_batch()
    alpha, squared, gain, scale, count = 0.7, 0.0, 0.0, 0.0, 0
    for b in range(4):
        for k in range(3):
            if not batch.valid[b, k]:
                continue
            count += 1
            q, v = float(batch.q[b, k]), float(batch.baseline[b, k])
            for d in range(2):
                error = float(batch.predicted[b, k, d] - batch.actions[b, k, d])
                squared += float(batch.weights[b, k]) * error**2 / 2
            gain += q - v
            scale += {"advantage": abs(q - v), "magnitude": abs(q), "none": 1.0}[q_scale]
    loss, logs = distillation_loss(**vars(batch), alpha=alpha, q_scale=q_scale)
    assert float(loss) == pytest.approx(squared / count - alpha * gain / scale, rel=1e-6)
    assert float(logs["regression"]) == pytest.approx(squared / count, rel=1e-6)
    assert float(logs["q_scale"]) == pytest.approx(scale / count, rel=1e-6)


@pytest.mark.parametrize("without", ["q", "alpha"])
def test_loss_without_the_value_term_is_the_regression(without: str) -> None:
    batch = random_batch()
    full, logs = distillation_loss(**vars(batch), alpha=0.7, q_scale="advantage")
    if without == "q":
        batch.q = None
    loss, _ = distillation_loss(
        **vars(batch), alpha=0.0 if without == "alpha" else 0.7, q_scale="advantage"
    )
    assert loss == logs["regression"] and loss != full


def test_padding_and_unweighted_steps_do_not_matter() -> None:
    batch = random_batch()
    other = random_batch(seed=1)
    mask = batch.valid & (batch.weights > 0)
    changed = SimpleNamespace(**vars(batch))
    changed.actions = torch.where(mask[..., None], batch.actions, other.actions)
    changed.q = torch.where(batch.valid, batch.q, other.q)
    changed.baseline = torch.where(batch.valid, batch.baseline, other.baseline)
    for scale in ("advantage", "magnitude", "none"):
        first, _ = distillation_loss(**vars(batch), alpha=0.7, q_scale=scale)
        second, _ = distillation_loss(**vars(changed), alpha=0.7, q_scale=scale)
        assert first == second


@given(offset=st.floats(-100, 100), factor=st.floats(0.01, 100))
def test_advantage_scale_ignores_offset_and_unit_of_the_rewards(
    offset: float, factor: float
) -> None:
    batch = random_batch()
    loss, _ = distillation_loss(**vars(batch), alpha=0.3, q_scale="advantage")
    batch.q, batch.baseline = factor * batch.q + offset, factor * batch.baseline + offset
    moved, _ = distillation_loss(**vars(batch), alpha=0.3, q_scale="advantage")
    assert float(moved) == pytest.approx(float(loss), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("q_scale", ["advantage", "magnitude", "none"])
def test_gradient_of_the_value_term_against_finite_differences(q_scale: str) -> None:
    torch.manual_seed(0)
    config = ValueConfig(width=8, depth=1, fourier_features=0, layer_norm=False)
    values = Values(config, 3, 2).double().requires_grad_(False)
    batch = random_batch()
    observations = torch.randn(4, 3, 3, dtype=torch.float64)

    def loss_at(predicted: Tensor, scale: str) -> tuple[Tensor, dict[str, Tensor]]:
        return distillation_loss(
            predicted,
            batch.actions,
            torch.zeros(4, 3),
            batch.valid,
            values.q(observations, predicted),
            batch.baseline,
            50.0,
            scale,
        )

    predicted = batch.predicted.clone().requires_grad_(True)
    loss, logs = loss_at(predicted, q_scale)
    (gradient,) = torch.autograd.grad(loss, predicted)
    # The scale is a constant of the batch: differentiate without it, then divide.
    step, expected = 1e-6, torch.zeros_like(gradient)
    for index in np.ndindex(*gradient.shape):
        shifted = [batch.predicted.clone(), batch.predicted.clone()]
        shifted[0][index] += step
        shifted[1][index] -= step
        above, below = (float(loss_at(p, "none")[0]) for p in shifted)
        expected[index] = (above - below) / (2 * step) / float(logs["q_scale"])
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert (gradient[~batch.valid] == 0).all()


@pytest.mark.parametrize(("share", "imagined"), [(0.0, 0), (0.5, 8), (0.9, 14), (1.0, 16)])
def test_batches_hold_the_configured_share_of_imagined_windows(share: float, imagined: int) -> None:
    config = replace(SMALL, imagined_share=share)
    examples = lessons_for(config, StepValues())
    generator = torch.Generator().manual_seed(0)
    rows, valid = sample_windows(
        examples.dataset, window_pools(examples, config), config, generator
    )
    assert rows.shape == valid.shape == (16, 3)
    assert int(examples.spliced[rows[:, 0]].sum()) == imagined
    # Windows never leave their episode.
    episode = examples.dataset.episode[rows]
    assert (episode == episode[:, :1]).all()


def test_real_data_alone_fills_the_batch() -> None:
    dataset = small_dataset()
    examples = prepare_examples(dataset, None, SMALL, GAMMA, bootstrap_steps=1)
    pools = window_pools(examples, SMALL)
    rows, _ = sample_windows(dataset, pools, SMALL, torch.Generator().manual_seed(0))
    assert len(rows) == SMALL.batch_size


def test_timesteps_count_in_the_window_or_in_the_episode() -> None:
    dataset = mixed_dataset()
    rows, _ = dataset.windows(torch.tensor([1, 6]), 3)
    assert timesteps(dataset, rows, SMALL, 9).tolist() == [[0, 1, 2]] * 2
    config = replace(SMALL, timestep="episode")
    assert timesteps(dataset, rows, config, 9).tolist() == [[1, 2, 2], [1, 2, 3]]
    assert timesteps(dataset, rows, config, 3).tolist() == [[1, 2, 2], [1, 2, 2]]


def test_spliced_episodes_may_be_longer_than_any_real_one() -> None:
    """Real episodes have at most 3 steps here, a spliced one has 4."""
    config = replace(SMALL, timestep="episode", updates=3)
    examples = lessons_for(config, StepValues())
    policy, _ = train_policy(examples, None, config, seed=0, episode_steps=3)
    assert policy.embed_timestep.num_embeddings == 3


def regression_lessons() -> Examples:
    return prepare_examples(small_dataset(), None, SMALL, GAMMA, bootstrap_steps=1)


def test_value_term_pulls_actions_towards_higher_q() -> None:
    dataset = small_dataset()
    examples = Examples(
        dataset,
        torch.zeros(len(dataset)),
        torch.ones(len(dataset)),
        torch.zeros(len(dataset)).bool(),
        torch.zeros(len(dataset)),
    )
    config = replace(SMALL, updates=150)
    reached = []
    for alpha in (0.0, 3.0):
        policy, _ = train_policy(
            examples,
            StepValues(),
            replace(config, alpha=alpha),
            seed=0,
            episode_steps=10,  # type: ignore[arg-type]
        )
        rows, valid = dataset.windows(torch.arange(0, len(dataset), 10), 3)
        predicted = policy(
            examples.conditions[rows],
            dataset.observations[rows],
            dataset.actions[rows],
            timesteps(dataset, rows, config, 10),
            valid,
        )
        reached.append(float((predicted - 0.5).abs().mean()))
    # Recorded actions are uniform around 0; Q peaks at 0.5.
    assert reached[1] < 0.5 * reached[0]


def test_training_repeats_for_a_seed_and_averages_its_weights() -> None:
    examples = regression_lessons()
    first, snapshots = train_policy(examples, None, SMALL, seed=3, episode_steps=10)
    again, _ = train_policy(examples, None, SMALL, seed=3, episode_steps=10)
    other, _ = train_policy(examples, None, SMALL, seed=4, episode_steps=10)
    assert same_bits(first, again) and not same_bits(first, other)
    averaged, _ = train_policy(examples, None, replace(SMALL, ema=0.9), seed=3, episode_steps=10)
    assert not same_bits(first, averaged)
    # The last snapshot is the policy itself, the first one is not.
    for index, same in ((1, True), (0, False)):
        copy = make_policy(2, 2, SMALL, 10)
        copy.load_state_dict(first.state_dict())
        snapshots.restore(index, copy)
        assert same_bits(copy, first) == same


@pytest.mark.parametrize("kill_at", [5, 19, 29])
def test_killed_training_ends_in_the_same_bits(tmp_path: Path, kill_at: int) -> None:
    config = replace(SMALL, dropout=0.1, ema=0.9)
    examples = regression_lessons()
    expected, expected_snapshots = train_policy(examples, None, config, seed=1, episode_steps=10)
    path = tmp_path / "partial.safetensors"
    with pytest.raises(Killed):
        train_policy(
            examples,
            None,
            config,
            seed=1,
            episode_steps=10,
            checkpoint=KilledCheckpoint(path, every=4, kill_at=kill_at),
        )
    assert path.exists()
    found, snapshots = train_policy(
        examples,
        None,
        config,
        seed=1,
        episode_steps=10,
        checkpoint=KilledCheckpoint(path, every=4, kill_at=-1),
    )
    assert same_bits(found, expected) and same_bits(snapshots, expected_snapshots)


def test_diverged_training_names_its_stage_and_update() -> None:
    examples = regression_lessons()
    broken = replace(examples, conditions=examples.conditions * torch.nan)
    with pytest.raises(FloatingPointError, match=r"stage policy, update 0: .*loss"):
        train_policy(broken, None, SMALL, seed=0, episode_steps=10)


# -- the actor ------------------------------------------------------------------------------------


def random_policy(fused: bool, steps: int) -> TransformerPolicy:
    torch.manual_seed(0)
    policy = TransformerPolicy(2, 2, context=3, width=16, heads=2, fused=fused, steps=steps)
    return policy.eval().requires_grad_(False)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("timestep", ["window", "episode"])
@pytest.mark.parametrize("target", [None, 5.0])
def test_actor_acts_as_the_plain_forward_on_each_history(
    fused: bool, timestep: str, target: float | None
) -> None:
    """Three slots, episodes that end at different times; histories are kept as plain lists."""
    policy = random_policy(fused, steps=3 if timestep == "window" else 6)
    values: Any = StepValues() if target is None else None
    actor = TransformerActor(policy, values=values, target=target, timestep=timestep)
    generator = torch.Generator().manual_seed(1)
    actor.begin(3)
    actor.reset(torch.arange(3))
    histories: list[list[tuple[Tensor, Tensor, Tensor]]] = [[], [], []]
    wanted = [target or 0.0] * 3
    for time in range(9):
        rows = torch.tensor([0, 1, 2] if time < 7 else [2, 0])
        observations = torch.randn(len(rows), 2, generator=generator)
        rewards = torch.randn(len(rows), generator=generator)
        acted = actor.act(observations, rewards, rows)
        for i, slot in enumerate(rows.tolist()):
            history = histories[slot]
            if history:
                wanted[slot] -= float(rewards[i])
            condition = torch.tensor(wanted[slot]) if values is None else values.v(observations[i])
            # The action of the step itself is not known yet: anything may stand there.
            window = [*history, (condition, observations[i], torch.full((2,), 9.0))][-3:]
            first = max(0, len(history) - 2)
            steps = torch.arange(len(window)) + (first if timestep == "episode" else 0)
            columns = [torch.stack(column)[None] for column in zip(*window, strict=True)]
            expected = policy(*columns, steps.clamp_max(5)[None])
            torch.testing.assert_close(acted[i], expected[0, -1], rtol=1e-4, atol=1e-5)
            history.append((condition, observations[i], acted[i]))
        if time in (1, 4):
            ended = 1 if time == 1 else 2
            actor.reset(torch.tensor([ended]))
            histories[ended], wanted[ended] = [], target or 0.0


def test_target_shrinks_by_the_rewards_received() -> None:
    actor = TransformerActor(random_policy(True, 3), target=10.0)
    actor.begin(2)
    rows = torch.arange(2)
    actor.reset(rows)
    asked = []
    for rewards in ([7.0, 7.0], [1.0, -2.0], [0.5, 3.0], [0.0, 1.0]):
        actor.act(torch.zeros(2, 2), torch.tensor(rewards), rows)
        at = actor.length - 1
        asked.append(actor.conditions[rows, at].tolist())
    # What a slot's earlier episode was rewarded with is not charged to the new one.
    assert asked == [[10.0, 10.0], [9.0, 12.0], [8.5, 9.0], [8.5, 8.0]]


def test_what_is_left_of_a_target_stays_in_the_range_of_training() -> None:
    actor = TransformerActor(
        random_policy(True, 3), target=-1.0, reward_scale=2.0, seen=(-40.0, -2.0)
    )
    actor.begin(2)
    rows = torch.arange(2)
    actor.reset(rows)
    asked = []
    for rewards in ([0.0, 0.0], [-1.0, 9.0], [-1.0, 50.0]):
        actor.act(torch.zeros(2, 2), torch.tensor(rewards), rows)
        asked.append(actor.conditions[rows, actor.length - 1].tolist())
    assert asked == [[-2.0, -2.0], [-2.0, -20.0], [-2.0, -40.0]]


@pytest.mark.parametrize("both", [True, False])
def test_actor_wants_values_or_a_target(both: bool) -> None:
    values: Any = StepValues() if both else None
    with pytest.raises(ValueError, match="either values"):
        TransformerActor(random_policy(True, 3), values=values, target=1.0 if both else None)


def test_no_tensor_forgets_the_device_of_its_data() -> None:
    """A tensor made without `device=` lands on the meta device here and meets no other."""
    policy, values = random_policy(True, 6), StepValues()
    actor = TransformerActor(policy, values=values, timestep="episode")  # type: ignore[arg-type]
    config = replace(SMALL, timestep="episode")
    dataset = mixed_dataset()
    policy.requires_grad_(True)
    generator = torch.Generator()
    with torch.device("meta"):
        examples = prepare_examples(dataset, values, config, GAMMA, bootstrap_steps=2)  # type: ignore[arg-type]
        rows, valid = sample_windows(dataset, window_pools(examples, config), config, generator)
        predicted = policy(
            examples.conditions[rows],
            dataset.observations[rows],
            dataset.actions[rows].expand(-1, -1, 2),
            timesteps(dataset, rows, config, 10),
            valid,
        )
        loss, _ = distillation_loss(
            predicted,
            dataset.actions[rows],
            examples.weights[rows],
            valid,
            values.q(dataset.observations[rows], predicted),
            examples.baseline[rows],
            0.3,
            "advantage",
        )
        loss.backward()
        actor.begin(2)
        every = dataset.episode[:1].new_tensor([0, 1], device="cpu")
        actor.reset(every)
        for _ in range(5):
            acted = actor.act(dataset.observations[:2], dataset.rewards[:2], every)
    assert loss.device.type == acted.device.type == "cpu"


def test_gradient_of_the_value_guided_transformer_in_closed_form() -> None:
    """QT on a linear Q = w a: 2 (pi - a) / A - alpha w / mean |Q - V|, all over the step count."""
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(3, 4, 2, generator=generator, requires_grad=True)
    actions, slope = torch.randn(3, 4, 2, generator=generator), torch.tensor([0.7, -1.3])
    baseline, valid = torch.randn(3, 4, generator=generator), torch.ones(3, 4, dtype=torch.bool)
    q = predicted @ slope
    loss, _ = distillation_loss(
        predicted, actions, torch.ones(3, 4), valid, q, baseline, 0.3, "advantage"
    )
    loss.backward()
    scale = (q - baseline).abs().mean().detach()
    expected = (predicted - actions).detach() - 0.3 * slope / scale  # 2 / A = 1
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, expected / 12)
