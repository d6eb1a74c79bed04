"""The packaged behaviour actors of the locomotion datasets: load them, act with them, measure them.

D4RL (Fu et al., 2020, Section 4) makes its Gym sets from one soft actor-critic training per robot:
a partly trained actor logs `medium`, everything up to it logs `medium-replay`, half medium and half
expert logs `medium-expert`. The training is the slow step of that recipe; it is done once
(`tools/train_behaviour.py`, which needs SBX) and a choice of its actors is packaged in
`snapshot_files/` (`tools/pack_behaviours.py`), so that the datasets are made anew in about a minute
each from NumPy and MuJoCo alone.

| training | algorithm | what it gives |
|---|---|---|
| `hopper-tqc-0`, `walker2d-tqc-0` | TQC | every set of that robot |
| `halfcheetah-tqc-0` | TQC | `medium`, `full-replay`, `medium-expert` |
| `halfcheetah-sac-0` | SAC | `medium-replay` |

TQC (Kuznetsov et al., 2020) is SAC with a distributional critic whose greatest quantiles are left
out. It is D4RL's recipe but for that: with it an expert takes under a million steps, where SAC took
longer than we could train. The actors are half as wide as usual (128), to keep the package small.

Shapes: B observations, O observation size, A action size, H hidden width.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Actor = dict[str, NDArray[np.float32]]
"""Weights of one snapshot, see `act`."""

ENVIRONMENTS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5", "walker2d": "Walker2d-v5"}

# Mean returns of D4RL's random and expert policies: a normalized score of 0 and of 100.
REFERENCE_RETURNS = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
}

LOG_STD_RANGE = (-20.0, 2.0)  # SBX clips the log standard deviation to this range
EVALUATION_SEED = 1_000_000  # episode k of any evaluation resets its environment with this + k
FOLDER = Path(__file__).parent / "snapshot_files"
TABLE_FIELDS = (
    "training",
    "algorithm",
    "training_seed",
    "step",
    "return_mean",
    "return_std",
    "return_best",
    "episode_length_mean",
    "normalized_score",
    "episodes",
)


def robot_of(training: str) -> str:
    """`hopper` for the training `hopper-tqc-0`: a training is called robot-algorithm-seed."""
    return training.split("-")[0]


def normalized_score(robot: str, returns: Any) -> Any:
    """100 * (return - random) / (expert - random), with D4RL's random and expert returns."""
    low, high = REFERENCE_RETURNS[robot]
    return 100.0 * (returns - low) / (high - low)


def act(
    weights: Actor,
    observation: np.ndarray,
    generator: np.random.Generator | None = None,
    noise: float = 1.0,
) -> NDArray[np.float32]:
    """Action of a stored actor: a ReLU network, then a Gaussian squashed by tanh.

    Args:
        weights: `layer_<i>.weight` (H, in) and `.bias` (H,), then `mean` and `log_std`, (A, H)
            and (A,): the layout of `torch.nn.Linear`.
        observation: (B, O), as the environment returns it.
        generator: draws the exploration noise; without one the action is the mode, tanh(mean).
        noise: factor of the exploration noise's standard deviation; 1 is what the training used.

    Returns:
        (B, A) float32 actions in [-1, 1].
    """
    x = observation.astype(np.float32)  # (B, O)
    for i in range(len(weights) // 2 - 2):  # every layer but the two heads
        x = np.maximum(x @ weights[f"layer_{i}.weight"].T + weights[f"layer_{i}.bias"], 0.0)
    pre_tanh = x @ weights["mean.weight"].T + weights["mean.bias"]  # (B, A)
    if generator is not None:
        log_std = x @ weights["log_std.weight"].T + weights["log_std.bias"]
        deviation = np.float32(noise) * np.exp(np.clip(log_std, *LOG_STD_RANGE))
        drawn = generator.standard_normal(pre_tanh.shape, dtype=np.float32)
        pre_tanh = pre_tanh + deviation * drawn
    return np.tanh(pre_tanh)


def episode_returns(robot: str, weights: Actor, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Undiscounted returns and lengths of the actor without noise, both (episodes,).

    The episodes run side by side, one environment each: one batched network call per step. Episode
    k starts from seed `EVALUATION_SEED` + k whatever the number of episodes.
    """
    worlds = [gym.make(ENVIRONMENTS[robot], disable_env_checker=True) for _ in range(episodes)]
    observations = np.stack(
        [world.reset(seed=EVALUATION_SEED + k)[0] for k, world in enumerate(worlds)]
    )
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    running = list(range(episodes))
    while running:
        actions = act(weights, observations[running])
        for action, k in zip(actions, list(running), strict=True):
            observations[k], reward, terminated, truncated, _ = worlds[k].step(action)
            returns[k] += float(reward)
            lengths[k] += 1
            if terminated or truncated:
                running.remove(k)
    for world in worlds:
        world.close()
    return returns, lengths


def measure(robot: str, weights: Actor, episodes: int = 20) -> dict[str, float]:
    """What `snapshots.csv` says of an actor: its noise-free returns over seeded episodes."""
    returns, lengths = episode_returns(robot, weights, episodes)
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_best": float(returns.max()),
        "episode_length_mean": float(lengths.mean()),
        "normalized_score": float(normalized_score(robot, returns.mean())),
    }


def load_snapshots(training: str, folder: Path = FOLDER) -> dict[int, Actor]:
    """Packaged actors of one training in training order: step -> weights for `act`.

    They are stored in half precision, as tensors `<step>/layer_0.weight` and so on, and computed
    with in single precision.
    """
    actors: dict[int, Actor] = {}
    for name, array in load_file(folder / f"{training}.safetensors").items():
        step, tensor = name.split("/", 1)
        actors.setdefault(int(step), {})[tensor] = array.astype(np.float32)
    return dict(sorted(actors.items()))


def trainings() -> list[str]:
    """Names of the packaged trainings, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def measured_scores(training: str) -> dict[int, float]:
    """Normalized noise-free score of every packaged snapshot, by training step, in order."""
    rows = read_table(FOLDER / "snapshots.csv")
    return {
        int(row["step"]): float(row["normalized_score"])
        for row in rows
        if row["training"] == training
    }


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, or none when it does not exist yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, fields: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a whole CSV file, numbers as they stand."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, fields, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
