"""The gate on support against brute force, and what it must never let through."""

from __future__ import annotations

import pytest
import torch

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.support import NearestStates, nearest_states, passes
from tests.helpers import small_dataset


def gate_of(reference: torch.Tensor, neighbours: int = 1, threshold: float = 1.0) -> NearestStates:
    width = reference.shape[1]
    return NearestStates(
        reference, torch.zeros(width), torch.ones(width), neighbours, torch.tensor(threshold)
    )


def test_distance_is_that_of_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(700, 5, generator=generator)
    states = 3 * torch.randn(600, 5, generator=generator)  # more than one chunk
    every = (states[:, None].double() - reference[None].double()).norm(dim=-1)
    expected = every.sort(1).values[:, :4].mean(1)
    torch.testing.assert_close(gate_of(reference, 4).distance(states), expected.float())


def test_distance_by_hand_and_in_deviations_of_the_data() -> None:
    reference = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    gate = NearestStates(
        reference, torch.tensor([1.0, 1.0]), torch.tensor([2.0, 1.0]), 2, torch.tensor(1.0)
    )
    # (1, 1) is (0, 0) once standardized: 0 and 5 away.
    assert float(gate.distance(torch.tensor([[1.0, 1.0]]))) == pytest.approx(2.5)


def test_a_reference_is_at_distance_zero_even_ten_deviations_out() -> None:
    reference = 10 + torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    assert float(gate_of(reference).distance(reference).max()) == 0.0


def test_the_threshold_lets_its_quantile_of_held_out_states_pass() -> None:
    data = small_dataset(episodes=60, steps=20)
    recorded = data.select_episodes(torch.arange(50))
    holdout = data.select_episodes(torch.arange(50, 60))
    for quantile in (0.3, 0.5, 0.9):
        gate = nearest_states(recorded, holdout, quantile)
        share = passes(gate, holdout.next_observations).float().mean()
        assert float(share) == pytest.approx(quantile, abs=0.01)


def test_a_stricter_quantile_never_passes_more() -> None:
    data = small_dataset(episodes=30)
    recorded, holdout = data.split_episodes(0.2, torch.Generator().manual_seed(0))
    states = 3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(2))
    strict, loose = (passes(nearest_states(recorded, holdout, q), states) for q in (0.2, 0.8))
    assert not (strict & ~loose).any()
    assert not passes(nearest_states(recorded, holdout, 1.0), states + 100).any()


def test_nan_never_passes() -> None:
    states = torch.tensor([[float("nan"), 0.0], [float("inf"), 0.0], [0.0, 0.0]])
    unlimited = gate_of(torch.zeros(2, 2), threshold=float("inf"))
    assert passes(unlimited, states).tolist() == [False, False, True]


def test_terminal_states_do_not_set_the_threshold() -> None:
    data = small_dataset(episodes=20)
    ended = data.last.clone()
    far = torch.where(ended[:, None], data.next_observations + 1e3, data.next_observations)
    parts = {name: getattr(data, name) for name in data.__dataclass_fields__}
    fallen = OfflineDataset(**{**parts, "next_observations": far, "terminated": ended})
    assert float(nearest_states(data, fallen, 1.0).threshold) < 10


def test_where_every_step_ends_its_episode_nothing_is_near_enough() -> None:
    data = small_dataset(episodes=20)
    parts = {name: getattr(data, name) for name in data.__dataclass_fields__}
    over = OfflineDataset(**{**parts, "terminated": torch.ones_like(data.terminated)})
    gate = nearest_states(data, over, 0.5)
    assert not passes(gate, data.observations).any()


def test_same_seed_same_gate_and_too_little_data_says_so() -> None:
    data = small_dataset()
    first, second = (nearest_states(data, data, 0.5, references=40, seed=3) for _ in range(2))
    assert torch.equal(first.reference, second.reference)
    assert torch.equal(first.threshold, second.threshold)
    with pytest.raises(ValueError, match="fewer than the 500 neighbours"):
        nearest_states(data, data, 0.5, neighbours=500)
