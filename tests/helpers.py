"""Small data sets and random valid inputs that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.training import Checkpoint

GAMMA = 0.9


@st.composite
def episode_lists(draw: st.DrawFn, most: int = 6, imagined: bool = True) -> list[Episode]:
    """Valid recordings: any widths and lengths, ending either way, some steps imagined."""
    width, actions = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-6, 1.0, 1e6]))
    result = []
    for _ in range(draw(st.integers(1, most))):
        steps = draw(st.integers(1, 9))
        flags = generator.random(steps) < 0.3 if imagined and draw(st.booleans()) else None
        result.append(
            Episode(
                observations=(scale * generator.normal(size=(steps + 1, width))).astype(np.float32),
                actions=generator.uniform(-1, 1, (steps, actions)).astype(np.float32),
                rewards=(scale * generator.normal(size=steps)).astype(np.float32),
                terminated=draw(st.booleans()),
                imagined=flags,
            )
        )
    return result


def counting_episodes(lengths: list[int]) -> list[Episode]:
    """Episodes whose observation is (number of the episode, step): a crossing cannot hide."""
    return [
        Episode(
            observations=np.array([[number, step] for step in range(length + 1)], float),
            actions=np.zeros((length, 1)),
            rewards=np.arange(length, dtype=float),
            terminated=number % 2 == 0,
        )
        for number, length in enumerate(lengths)
    ]


def linear_dataset(
    episodes: int,
    steps: int,
    change: Tensor,
    control: Tensor,
    noise: Tensor,
    seed: int = 0,
    reward: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> OfflineDataset:
    """Recordings of s' = s + s change + a control + noise * Gaussian, random actions."""
    generator = torch.Generator().manual_seed(seed)
    recorded = []
    for _ in range(episodes):
        state = torch.empty(len(change)).uniform_(-1, 1, generator=generator)
        states, taken, rewards = [state], [], []
        for _ in range(steps):
            action = torch.empty(len(control)).uniform_(-1, 1, generator=generator)
            rewards.append(float(reward(state, action)) if reward else -1.0)
            disturbance = noise * torch.randn(len(noise), generator=generator)
            state = state + state @ change + action @ control + disturbance
            states.append(state)
            taken.append(action)
        recorded.append(
            Episode(
                torch.stack(states).numpy(),
                torch.stack(taken).numpy(),
                np.array(rewards),
                terminated=False,
            )
        )
    return from_episodes(recorded, "linear")


def small_dataset(seed: int = 0, episodes: int = 12, steps: int = 10) -> OfflineDataset:
    """A 2-D linear system with 2-D actions; enough to run any training loop."""
    return linear_dataset(
        episodes, steps, -0.1 * torch.eye(2), 0.2 * torch.eye(2), torch.full((2,), 0.05), seed
    )


class Killed(Exception):
    """Stands for the process being killed."""


class KilledCheckpoint(Checkpoint):
    """A checkpoint whose run is killed inside update `kill_at`."""

    def __init__(self, path: Path, every: int, kill_at: int) -> None:
        super().__init__(path, every=every, log_every=1)
        self.kill_at = kill_at

    def log(self, step: int, values: object) -> None:
        if step == self.kill_at:
            raise Killed
        super().log(step, values)  # type: ignore[arg-type]


def same_bits(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules hold exactly the same weights and buffers."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
