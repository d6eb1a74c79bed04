"""The ensemble on systems whose truth is known: recovery, calibration, uncertainty, elites."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ipd_lite.paper.dataset import OfflineDataset, concatenate
from ipd_lite.paper.ensemble import GaussianEnsemble, gaussian_loss
from ipd_lite.paper.training import Checkpoint
from ipd_lite.paper.uncertainty import inside_threshold
from ipd_lite.paper.world_model import (
    Known,
    WorldModel,
    WorldModelConfig,
    calibrate_threshold,
    choose_elites,
    holdout_error,
    split_for_model,
    train_world_model,
)
from tests.helpers import linear_dataset, small_dataset

CHANGE = torch.tensor([[-0.3, 0.1], [0.0, -0.2]])
CONTROL = torch.tensor([[0.5, 0.0], [0.0, 0.3]])
NOISE = torch.tensor([0.2, 0.05])
CONFIG = WorldModelConfig(
    members=4,
    elites=2,
    width=32,
    depth=1,
    updates=1200,
    batch_size=128,
    learning_rate=5e-3,
    fourier_features=0,
    evaluate_every=150,
)


def minus_one(states: Tensor, actions: Tensor, following: Tensor) -> Tensor:
    return torch.full_like(following[..., 0], -1.0)


def beyond_one(following: Tensor) -> Tensor:
    return following[..., 0] > 1.0


KNOWN = Known(reward=minus_one, terminated=beyond_one)


def gaussian_data(seed: int) -> OfflineDataset:
    return linear_dataset(60, 40, CHANGE, CONTROL, NOISE, seed)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return train_world_model(gaussian_data(0), CONFIG, seed=0, known=KNOWN)


@pytest.fixture(scope="module")
def fresh() -> OfflineDataset:
    """Data of the same system that the model has never seen."""
    return gaussian_data(1)


def test_ensemble_recovers_the_systems_mean(model: WorldModel, fresh: OfflineDataset) -> None:
    truth = fresh.observations + fresh.observations @ CHANGE + fresh.actions @ CONTROL
    mean, _ = model.predict(fresh.observations, fresh.actions)
    error = (mean.mean(0) - truth).square().mean(0).sqrt()
    assert (error < 0.25 * NOISE).all()


def test_variance_is_calibrated(model: WorldModel, fresh: OfflineDataset) -> None:
    """Each member's variance is the noise's, and as much lies inside a deviation as should.

    Early stopping must bring back the variances' learned bounds together with the weights.
    """
    mean, variance = model.predict(fresh.observations, fresh.actions)
    ratio = variance.mean((0, 1)) / NOISE.square()
    assert ((ratio > 0.8) & (ratio < 1.25)).all()
    standardized = (fresh.next_observations - mean) / variance.sqrt()
    for deviations, share in ((1.0, 0.6827), (2.0, 0.9545)):
        inside = (standardized.abs() < deviations).float().mean((0, 1))
        torch.testing.assert_close(inside, torch.full((2,), share), atol=0.03, rtol=0)


def test_uncertainty_grows_away_from_the_data(model: WorldModel, fresh: OfflineDataset) -> None:
    near = model.uncertainty(fresh.observations, fresh.actions)
    far = model.uncertainty(fresh.observations + 10, fresh.actions)
    assert far.median() > 10 * near.median()
    threshold = calibrate_threshold(model, fresh, 0.95)
    path = torch.stack([near[:5], near[5:10].clamp(max=float(threshold)), far[:5]], dim=1)
    kept = inside_threshold(path, threshold, cumulative=False)
    assert not kept[:, 2].any()
    assert kept[:, 1].any()


@pytest.mark.parametrize("quantile", [0.2, 0.8, 1.0])
def test_threshold_keeps_the_asked_share_of_real_steps(
    model: WorldModel, fresh: OfflineDataset, quantile: float
) -> None:
    threshold = calibrate_threshold(model, fresh, quantile)
    inside = model.uncertainty(fresh.observations, fresh.actions) <= threshold
    assert float(inside.float().mean()) == pytest.approx(quantile, abs=1e-3)


def test_threshold_of_more_rows_than_one_chunk(model: WorldModel) -> None:
    data = concatenate([gaussian_data(2), gaussian_data(3)], "more than 4096")
    assert len(data) > 4096
    whole = torch.quantile(model.uncertainty(data.observations, data.actions), 0.7)
    torch.testing.assert_close(calibrate_threshold(model, data, 0.7), whole)


def test_mean_step_is_the_prediction_of_each_blocks_elite(
    model: WorldModel, fresh: OfflineDataset
) -> None:
    """Rows are split evenly: the first half goes to the first elite, the rest to the second."""
    observations, actions = fresh.observations[:10], fresh.actions[:10]
    mean, _ = model.predict(observations, actions)
    first, second = model.elites.tolist()
    expected = torch.cat([mean[first, :5], mean[second, 5:]])
    following, reward, terminated = model.step(observations, actions)
    torch.testing.assert_close(following, expected)
    assert (reward == -1).all()
    assert torch.equal(terminated, following[:, 0] > 1)


def test_sampled_steps_have_the_predicted_spread(model: WorldModel) -> None:
    count = 20_000
    observations, actions = torch.full((count, 2), 0.3), torch.zeros(count, 2)
    following, _, _ = model.step(observations, actions, torch.Generator().manual_seed(0))
    mean, variance = model.predict(observations[:1], actions[:1])
    for block, elite in zip(following.split(count // 2), model.elites.tolist(), strict=True):
        torch.testing.assert_close(block.mean(0), mean[elite, 0], atol=0.01, rtol=0)
        torch.testing.assert_close(block.var(0), variance[elite, 0], rtol=0.05, atol=0)


def test_gated_steps_use_every_elite_and_no_other_member(model: WorldModel) -> None:
    """Members that are told apart by a shift of ten deviations each."""
    shifted = copy.deepcopy(model)
    shifted.net.mlp.head.bias[:, 0, 0] += 10.0 * torch.arange(4)
    shifted.holdout_error.copy_(torch.tensor([3.0, 0.1, 2.0, 0.2]))
    choose_elites(shifted)
    states, actions = torch.zeros(1000, 2), torch.zeros(1000, 2)
    generator = torch.Generator().manual_seed(0)
    following, reward, _, uncertainty = shifted.step_with_uncertainty(states, actions, generator)
    member = (following[:, 0] / shifted.target_deviation[0] / 10).round()
    assert set(member.tolist()) == {1.0, 3.0}
    assert 400 < int((member == 1).sum()) < 600
    assert (reward == -1).all()
    torch.testing.assert_close(uncertainty, shifted.uncertainty(states, actions))


def test_same_generator_same_step(model: WorldModel, fresh: OfflineDataset) -> None:
    one, again, other = (
        model.step_with_uncertainty(
            fresh.observations[:8], fresh.actions[:8], torch.Generator().manual_seed(seed)
        )[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_kept_weights_are_those_of_the_recorded_error(model: WorldModel) -> None:
    """Early stopping returns every member to its best weights, not to its last."""
    _, holdout = split_for_model(gaussian_data(0), CONFIG, seed=0)
    torch.testing.assert_close(holdout_error(model, holdout), model.holdout_error)


def test_a_member_that_gets_worse_keeps_its_best_weights() -> None:
    """Weights spoilt after a good start: the end must not be worse than a stop."""
    data = gaussian_data(0)
    config = replace(CONFIG, updates=150, patience=50, final_learning_rate=1.0)
    good = train_world_model(data, config, seed=0, known=KNOWN)

    class Sabotage(Checkpoint):
        def log(self, step: int, values: object) -> None:
            if step >= 150:
                for parameter in self.optimizer.param_groups[0]["params"]:
                    parameter.data.mul_(1.5)

        def steps(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
            self.optimizer = kwargs["optimizers"]["adam"]  # type: ignore[index]
            return super().steps(*args, **kwargs)  # type: ignore[arg-type]

    longer = replace(config, updates=165, evaluate_every=15)
    ruined = train_world_model(data, longer, seed=0, known=KNOWN, checkpoint=Sabotage(None))
    steady = train_world_model(data, replace(config, evaluate_every=15), seed=0, known=KNOWN)
    assert (good.holdout_error >= steady.holdout_error).all()
    for one, other in zip(steady.net.parameters(), ruined.net.parameters(), strict=True):
        assert torch.equal(one, other)


def loss_inputs(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance, target = torch.randn(3, 2, 50, 3, generator=generator)
    bound = torch.zeros(2, 1, 3)
    return [mean.requires_grad_(), log_variance.requires_grad_(), target, bound, bound]


def test_loss_without_weights_is_the_gaussian_likelihood() -> None:
    mean, log_variance, target, *bounds = loss_inputs(0)
    reference = torch.nn.functional.gaussian_nll_loss(mean, target, log_variance.exp())
    found = gaussian_loss(mean, log_variance, target, bounds[0], bounds[1])
    torch.testing.assert_close(found, 2 * reference)  # the sum over two members


def test_fully_weighted_loss_teaches_the_mean_as_squared_error_does() -> None:
    mean, log_variance, target, *bounds = loss_inputs(1)
    loss = gaussian_loss(mean, log_variance, target, bounds[0], bounds[1], 1.0)
    squared = 0.5 * (mean - target).square().mean((1, 2)).sum()
    found, expected = torch.autograd.grad(loss, mean)[0], torch.autograd.grad(squared, mean)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_every_weight_has_its_minimum_at_the_samples_mean_and_variance(weight: float) -> None:
    target = 3 + 2 * torch.randn(1, 1000, 1, generator=torch.Generator().manual_seed(2))
    mean = target.mean().requires_grad_()
    log_variance = target.var(correction=0).log().requires_grad_()
    bound = torch.zeros(1, 1, 1)
    loss = gaussian_loss(
        mean.expand(1, 1000, 1), log_variance.expand(1, 1000, 1), target, bound, bound, weight
    )
    for gradient in torch.autograd.grad(loss, [mean, log_variance]):
        assert float(gradient.abs()) < 1e-4
    off = gaussian_loss(
        mean.expand(1, 1000, 1) + 0.3, log_variance.expand(1, 1000, 1), target, bound, bound, weight
    )
    assert off > loss


def test_weighted_loss_does_not_mistake_a_hard_function_for_noise() -> None:
    """A steep wave without noise: plain likelihood gives up on it and calls it noise, so its mean
    is worse after the same number of updates (Seitzer et al. 2022, figure 1)."""
    generator = torch.Generator().manual_seed(1)
    states = torch.rand(2000, 1, generator=generator) * 4
    wave = states * torch.sin(2 * math.pi * states)
    data = replace(
        linear_dataset(50, 40, torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1)),
        observations=states,
        next_observations=states + wave,
    )
    error = []
    for weight in (0.0, 0.5):
        config = replace(CONFIG, updates=1200, depth=2, variance_weight=weight)
        trained = train_world_model(data, config, seed=1)
        mean, _ = trained.predict(data.observations, data.actions)
        error.append(float((mean.mean(0) - data.next_observations).square().mean()))
    assert error[1] < 0.7 * error[0]


def test_variance_floor_hides_differences_that_do_not_matter(fresh: OfflineDataset) -> None:
    """Members that agree to a thousandth of a step and predict no noise must count as agreeing."""
    built = WorldModel(replace(CONFIG, variance_floor=0.01), 2, 2)
    for layer in built.net.mlp.parameters():
        layer.data.zero_()
    bias = built.net.mlp.head.bias
    bias.data[:, 0, :2] = 1e-3 * torch.arange(4.0)[:, None]
    bias.data[:, 0, 3:5] = -30.0
    rows = fresh.observations[:5], fresh.actions[:5]
    floored = built.uncertainty(*rows)
    built.variance_floor = 0.0
    assert (built.uncertainty(*rows) > 1e-3).all()
    assert (floored < 1e-3).all()


def test_training_stops_once_no_member_improves() -> None:
    made: list[int] = []

    class Counting(Checkpoint):
        def log(self, step: int, values: object) -> None:
            made.append(step)

    config = replace(CONFIG, updates=5000, evaluate_every=20, patience=2, learning_rate=0.0)
    train_world_model(small_dataset(), config, seed=0, checkpoint=Counting(None))
    assert len(made) == 60  # one look that sets the mark, two without an improvement


def test_elites_are_the_members_with_the_least_error(model: WorldModel) -> None:
    order = sorted(range(4), key=lambda member: float(model.holdout_error[member]))
    assert model.elites.tolist() == order[:2]
    altered = WorldModel(CONFIG, 2, 2, known=KNOWN)
    altered.load_state_dict(model.state_dict())
    altered.holdout_error.copy_(torch.tensor([3.0, 0.1, 2.0, 0.2]))
    choose_elites(altered)
    assert altered.elites.tolist() == [1, 3]
    inputs = torch.randn(6, 4)
    for packed, full in zip(altered.elite_net(inputs), altered.net(inputs), strict=True):
        torch.testing.assert_close(packed, full[[1, 3]])


def test_reward_and_termination_can_be_learned() -> None:
    """Ends beyond 0.5 on the first axis, reward linear in state and action."""
    data = linear_dataset(
        60,
        40,
        CHANGE,
        CONTROL,
        NOISE / 10,
        reward=lambda s, a: 3 * s[0] - a[1] + 2,
    )
    data = replace(data, terminated=data.next_observations[:, 0] > 0.5)
    learned = train_world_model(data, replace(CONFIG, known_reward=False, elites=1), seed=0)
    rows = slice(0, 1000)
    _, reward, terminated = learned.step(data.observations[rows], data.actions[rows])
    error = (reward - data.rewards[rows]).square().mean() / data.rewards.var()
    assert float(error) < 0.01
    assert float((terminated == data.terminated[rows]).float().mean()) > 0.97
    assert 0.05 < float(data.terminated.float().mean()) < 0.5


@pytest.mark.parametrize("known", [True, False])
def test_known_functions_are_used_only_if_asked_for(known: bool) -> None:
    config = replace(CONFIG, known_reward=known, known_termination=known, updates=1)
    built = train_world_model(small_dataset(), config, seed=0, known=KNOWN)
    _, reward, _ = built.step(torch.randn(4, 2), torch.randn(4, 2))
    assert bool((reward == -1).all()) == known


@given(scale=st.floats(1, 1e4), seed=st.integers(0, 100))
def test_log_variance_stays_inside_its_bounds(scale: float, seed: int) -> None:
    net = GaussianEnsemble(members=3, inputs=2, gaussians=2, logits=0, width=4, depth=0)
    inputs = scale * torch.randn(3, 10, 2, generator=torch.Generator().manual_seed(seed))
    _, log_variance, logits = net(inputs)
    assert logits.shape == (3, 10, 0)
    # The two soft bounds meet within a rounding error of the second.
    assert (log_variance > net.lowest - 1e-3).all()
    assert (log_variance < net.highest + 1e-3).all()


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_holdout_is_whole_episodes_and_repeatable(fraction: float) -> None:
    data, config = gaussian_data(0), replace(CONFIG, holdout=fraction)
    training, holdout = split_for_model(data, config, seed=4)
    assert holdout.episodes == round(fraction * data.episodes)
    assert (holdout.lengths == 40).all()
    assert len(training) + len(holdout) == len(data)
    again = split_for_model(data, config, seed=4)[1]
    assert holdout.fingerprint() == again.fingerprint()
    assert holdout.fingerprint() != split_for_model(data, config, seed=5)[1].fingerprint()
