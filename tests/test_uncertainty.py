"""Divergences against Monte Carlo and torch.distributions; the gate by construction."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from ipd_lite.paper.uncertainty import (
    dual_divergence,
    ensemble_divergence,
    inside_threshold,
    primal_divergence,
)

Divergence = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
BOTH = pytest.mark.parametrize("divergence", [dual_divergence, primal_divergence])
KINDS = {"dual": dual_divergence, "primal": primal_divergence}


def gaussian(mean: Tensor, variance: Tensor) -> Distribution:
    return Independent(Normal(mean, variance.sqrt()), 1)


def geometric_mean(m1: Tensor, v1: Tensor, m2: Tensor, v2: Tensor) -> Distribution:
    """sqrt(N1 N2), normalized: precisions and precision-weighted means are averaged."""
    precision = (1 / v1 + 1 / v2) / 2
    return gaussian((m1 / v1 + m2 / v2) / 2 / precision, 1 / precision)


def by_definition(kind: str, m1: Tensor, v1: Tensor, m2: Tensor, v2: Tensor) -> Tensor:
    """Nielsen (2019) with torch's own KL divergence, in float64."""
    m1, v1, m2, v2 = (x.double() for x in (m1, v1, m2, v2))
    one, other, middle = gaussian(m1, v1), gaussian(m2, v2), geometric_mean(m1, v1, m2, v2)
    if kind == "dual":
        return (kl_divergence(middle, one) + kl_divergence(middle, other)) / 2
    return (kl_divergence(one, middle) + kl_divergence(other, middle)) / 2


def random_pair(seed: int, width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(2, 5, width, generator=generator, dtype=dtype)
    variances = torch.randn(2, 5, width, generator=generator, dtype=dtype).exp()
    return [means[0], variances[0], means[1], variances[1]]


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 5))
def test_divergence_equals_its_definition(kind: str, seed: int, width: int) -> None:
    pair = random_pair(seed, width)
    torch.testing.assert_close(KINDS[kind](*pair), by_definition(kind, *pair))


def test_dual_form_is_the_bhattacharyya_distance() -> None:
    """-log of the integral of sqrt(p q), by Monte Carlo over samples of p."""
    m1, v1, m2, v2 = (x[0] for x in random_pair(1, 2))
    torch.manual_seed(0)
    one, other = gaussian(m1, v1), gaussian(m2, v2)
    sample = one.sample((400_000,))
    overlap = (0.5 * (other.log_prob(sample) - one.log_prob(sample))).exp().mean()
    torch.testing.assert_close(dual_divergence(m1, v1, m2, v2), -overlap.log(), atol=0.01, rtol=0)


def test_primal_form_by_monte_carlo() -> None:
    m1, v1, m2, v2 = (x[0] for x in random_pair(2, 2))
    torch.manual_seed(0)
    middle, total = geometric_mean(m1, v1, m2, v2), torch.zeros((), dtype=torch.float64)
    for one in (gaussian(m1, v1), gaussian(m2, v2)):
        sample = one.sample((400_000,))
        total += 0.5 * (one.log_prob(sample) - middle.log_prob(sample)).mean()
    torch.testing.assert_close(primal_divergence(m1, v1, m2, v2), total, atol=0.02, rtol=0)


@BOTH
@given(seed=st.integers(0, 10_000), width=st.integers(1, 4))
def test_symmetric_positive_and_zero_only_for_equals(
    divergence: Divergence, seed: int, width: int
) -> None:
    m1, v1, m2, v2 = random_pair(seed, width, torch.float32)
    forwards, backwards = divergence(m1, v1, m2, v2), divergence(m2, v2, m1, v1)
    torch.testing.assert_close(forwards, backwards)
    assert (forwards > 0).all()
    assert divergence(m1, v1, m1, v1).abs().max() == 0


@BOTH
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100))
def test_units_do_not_matter(divergence: Divergence, seed: int, scale: float) -> None:
    """Both are invariant to shifting and scaling the observation."""
    m1, v1, m2, v2 = random_pair(seed, 3)
    moved = divergence(scale * m1 + 7, scale**2 * v1, scale * m2 + 7, scale**2 * v2)
    torch.testing.assert_close(moved, divergence(m1, v1, m2, v2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_float32_stays_exact_far_from_the_origin(kind: str, offset: float) -> None:
    m1, v1, m2, v2 = random_pair(3, 3, torch.float32)
    # Steps that float32 resolves there, so that both precisions see the same inputs.
    m1, m2 = (offset + (m * 8).round() / 8 for m in (m1, m2))
    v1, v2 = 1e-2 * v1, 1e-2 * v2
    truth = by_definition(kind, m1, v1, m2, v2).float()
    torch.testing.assert_close(KINDS[kind](m1, v1, m2, v2), truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_keeps_tiny_differences(kind: str) -> None:
    """A thousandth of relative difference in variance gives about 1e-7 nats, not rounding noise."""
    zero, variance = torch.zeros(1), torch.tensor([0.7])
    other = variance * (1 + 1e-3)
    truth = by_definition(kind, zero, variance, zero, other).float()
    assert 1e-8 < float(truth) < 1e-6
    torch.testing.assert_close(KINDS[kind](zero, variance, zero, other), truth, rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@given(members=st.integers(2, 6), width=st.integers(1, 3), seed=st.integers(0, 1000))
def test_ensemble_is_the_mean_over_all_pairs(
    kind: str, members: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(members, 4, width, generator=generator, dtype=torch.float64)
    variances = torch.rand(members, 4, width, generator=generator, dtype=torch.float64) + 0.1
    pairs = [
        by_definition(kind, means[i], variances[i], means[j], variances[j])
        for i, j in itertools.combinations(range(members), 2)
    ]
    found = ensemble_divergence(means, variances, kind)
    torch.testing.assert_close(found, torch.stack(pairs).mean(0))
    order = torch.randperm(members, generator=generator)
    torch.testing.assert_close(found, ensemble_divergence(means[order], variances[order], kind))


def test_agreeing_members_are_certain_whatever_their_noise() -> None:
    """Aleatoric noise alone is no disagreement."""
    means, variances = torch.randn(1, 4, 3).repeat(5, 1, 1), torch.full((5, 4, 3), 100.0)
    assert ensemble_divergence(means, variances).abs().max() == 0


def test_ensemble_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="at least two members, got 1"):
        ensemble_divergence(torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match="unknown divergence 'kl'"):
        ensemble_divergence(torch.zeros(2, 2, 3), torch.ones(2, 2, 3), "kl")


def test_gate_stops_where_uncertainty_is_high_by_construction() -> None:
    low, high = 0.1, 9.0
    uncertainty = torch.full((4, 5), low)
    uncertainty[1, 3] = uncertainty[2, 0] = uncertainty[3, 4] = high
    kept = inside_threshold(uncertainty, 1.0, cumulative=False)
    assert kept.sum(1).tolist() == [5, 3, 0, 4]
    # Nothing after the first doubtful step is kept, however certain.
    assert not kept[1, 4]


def test_cumulative_gate_lets_certain_steps_pay_for_a_doubtful_one() -> None:
    uncertainty = torch.tensor([[0.5, 0.5, 1.75, 1.0], [1.75, 0.0, 0.0, 0.0]])
    assert inside_threshold(uncertainty, 1.0, cumulative=True).sum(1).tolist() == [4, 0]
    assert inside_threshold(uncertainty, 1.0, cumulative=False).sum(1).tolist() == [2, 0]


@pytest.mark.parametrize("cumulative", [False, True])
def test_threshold_itself_is_inside(cumulative: bool) -> None:
    assert inside_threshold(torch.full((1, 3), 0.5), torch.tensor(0.5), cumulative).all()


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_uncertainty_is_never_inside(cumulative: bool, bad: float) -> None:
    uncertainty = torch.tensor([[0.0, bad, 0.0]])
    assert inside_threshold(uncertainty, 1.0, cumulative).tolist() == [[True, False, False]]


@given(
    rows=st.lists(st.lists(st.floats(0, 4), min_size=4, max_size=4), min_size=1, max_size=4),
    threshold=st.floats(0.1, 4),
    cumulative=st.booleans(),
)
def test_gate_equals_a_loop(rows: list[list[float]], threshold: float, cumulative: bool) -> None:
    uncertainty = torch.tensor(rows, dtype=torch.float64)
    kept = inside_threshold(uncertainty, threshold, cumulative)
    for row, found in zip(uncertainty.tolist(), kept.tolist(), strict=True):
        open_gate, budget = True, 0.0
        for step, value in enumerate(row):
            budget += value
            limit = threshold * (step + 1) if cumulative else threshold
            open_gate = open_gate and (budget if cumulative else value) <= limit
            assert found[step] == open_gate
