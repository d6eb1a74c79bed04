"""Train the behaviour policies of the locomotion datasets: SAC, with actor snapshots on the way.

D4RL (Fu et al., 2020, Section 4) makes its Gym sets from soft actor-critic: a partly trained
actor logs `medium`, everything up to it logs `medium-replay`, half medium and half expert logs
`medium-expert`. This module is the one slow step of that recipe. It trains SAC once per
environment with SBX (Stable-Baselines3 in JAX), stores small actor snapshots along the way and
packs a choice of them into `ipd_lite/snapshots/`; the datasets are then regenerated from those
files in about a minute each, with neither SBX nor JAX installed.

    pip install "ipd-lite[collect]"
    python -m ipd_lite.train_behaviour --env hopper --steps 1000000 --out runs/behaviour/hopper
    python -m ipd_lite.train_behaviour --pack --env hopper --out runs/behaviour/hopper

A stopped run continues when the first command is given again. It resumes from its last full
checkpoint (networks, optimizers, replay buffer), with fresh environment and sampling noise: the
continued run is a valid SAC run, but not bit for bit the one that was never stopped.

Shapes: B observations, O observation size, A action size, H hidden width.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from safetensors.numpy import load_file, save_file

ENVIRONMENTS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5", "walker2d": "Walker2d-v5"}


# Mean returns of D4RL's random and expert policies: a normalized score of 0 and of 100.
REFERENCE_RETURNS = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
}


LOG_STD_RANGE = (-20.0, 2.0)  # SBX clips the log standard deviation to this range


EVALUATION_SEED = 1_000_000  # episode k of any evaluation resets its environment with this + k


SNAPSHOT_FOLDER = Path(__file__).parent / "snapshot_files"


TABLE_FIELDS = (
    "environment",
    "step",
    "return_mean",
    "return_std",
    "episode_length_mean",
    "normalized_score",
    "episodes",
    "seed",
)


@dataclass(frozen=True)
class BehaviourConfig:
    """One SAC run. The networks are half the usual width so that one CPU core is enough."""

    env: str = "hopper"
    steps: int = 1_000_000  # environment steps in total, a resumed run included
    seed: int = 0
    hidden: int = 128  # H; SAC's usual 256 is four to five times slower on a CPU
    batch_size: int = 128
    learning_rate: float = 1e-3  # Adam, of the actor, the critics and the temperature
    discount: float = 0.99
    n_envs: int = 8  # copies stepped together: one network call per 8 environment steps
    steps_per_round: int = 64  # environment steps, all copies together, between two update blocks
    updates_per_round: int = 32  # gradient steps of a block, compiled into one call
    learning_starts: int = 5_000  # environment steps with uniformly random actions
    critic_layer_norm: bool = False  # hopper stayed below 15 with it, at 3e-4, for 350k steps
    evaluation_episodes: int = 10
    checkpoint_minutes: float = 10.0


def normalized_score(env: str, mean_return: float) -> float:
    """D4RL's score: 0 for its random policy's undiscounted return, 100 for its expert's."""
    low, high = REFERENCE_RETURNS[env]
    return 100.0 * (mean_return - low) / (high - low)


def act(
    weights: dict[str, np.ndarray],
    observation: np.ndarray,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Action of a stored actor: a ReLU network, then a Gaussian squashed by tanh.

    Args:
        weights: `layer_<i>.weight` (H, in) and `.bias` (H,), then `mean` and `log_std`, (A, H)
            and (A,): the layout of `torch.nn.Linear`. Half precision is computed in float32.
        observation: (B, O), as the environment returns it.
        rng: draws the exploration noise; without one the action is the mode, tanh(mean).

    Returns:
        (B, A) float32 actions in [-1, 1].
    """
    w = {name: array.astype(np.float32, copy=False) for name, array in weights.items()}
    x = observation.astype(np.float32)  # (B, O)
    depth = sum(name.startswith("layer_") and name.endswith(".weight") for name in w)
    for i in range(depth):
        x = np.maximum(x @ w[f"layer_{i}.weight"].T + w[f"layer_{i}.bias"], 0.0)  # (B, H)
    pre_tanh = x @ w["mean.weight"].T + w["mean.bias"]  # (B, A)
    if rng is not None:
        log_std = np.clip(x @ w["log_std.weight"].T + w["log_std.bias"], *LOG_STD_RANGE)
        noise = rng.standard_normal(pre_tanh.shape, dtype=np.float32)
        pre_tanh = pre_tanh + np.exp(log_std) * noise
    return np.tanh(pre_tanh)


def measure(env: str, weights: dict[str, np.ndarray], episodes: int) -> dict[str, float]:
    """Undiscounted return and length of the actor without noise, over seeded episodes."""
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    world = gym.make(ENVIRONMENTS[env])
    returns, lengths = [], []
    for episode in range(episodes):
        observation, _ = world.reset(seed=EVALUATION_SEED + episode)
        total, length, done = 0.0, 0, False
        while not done:
            action = act(weights, observation[None])[0]
            observation, reward, terminated, truncated, _ = world.step(action)
            total, length, done = total + float(reward), length + 1, terminated or truncated
        returns.append(total)
        lengths.append(length)
    world.close()
    return {
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "episode_length_mean": float(np.mean(lengths)),
        "normalized_score": normalized_score(env, float(np.mean(returns))),
    }


def actor_arrays(model: Any) -> dict[str, np.ndarray]:
    """The actor's layers from an SBX model, float32, in `torch.nn.Linear`'s layout."""
    layers = model.policy.actor_state.params["params"]
    # Flax numbers the layers in the order of their calls: hidden ones, mean, log_std.
    names = [f"layer_{i}" for i in range(len(layers) - 2)] + ["mean", "log_std"]
    arrays = {}
    for i, name in enumerate(names):
        kernel, bias = layers[f"Dense_{i}"]["kernel"], layers[f"Dense_{i}"]["bias"]
        arrays[f"{name}.weight"] = np.ascontiguousarray(np.asarray(kernel).T)  # (out, in)
        arrays[f"{name}.bias"] = np.ascontiguousarray(bias)
    return arrays


def snapshot_due(step: int) -> int:
    """The first snapshot step after `step`: dense while the actor learns fastest."""
    every = 5_000 if step < 50_000 else 10_000 if step < 200_000 else 25_000
    return (step // every + 1) * every


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(temporary path)`, then move the file into place in one step."""
    temporary = path.with_name("partial-" + path.name)
    write(temporary)
    os.replace(temporary, path)


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a snapshot table, or none when the file does not exist yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, fields: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a whole table atomically, numbers as they stand."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            table = csv.DictWriter(file, fields, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

    write_atomically(path, write)


def train(config: BehaviourConfig, out: Path, minutes: float | None = None) -> None:
    """Run SAC up to `config.steps`, or resume it, for at most `minutes` of wall-clock time.

    Writes into `out`: `config.json`, `snapshots/<step>.safetensors`, `snapshots.csv` and the full
    checkpoint `model.zip` + `buffer.pkl` in Stable-Baselines3's own format.
    """
    # One thread: at this size a second one waits more than it works. Read when JAX starts.
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    )
    try:
        from sbx import SAC
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
    except ImportError as error:
        raise SystemExit(
            f'Training needs SBX ({error}). Install it with: pip install "ipd-lite[collect]"'
        ) from error

    folder, table = out / "snapshots", out / "snapshots.csv"
    model_file, buffer_file = out / "model.zip", out / "buffer.pkl"
    folder.mkdir(parents=True, exist_ok=True)

    def world() -> gym.Env:
        # float32 halves the replay buffer; the networks compute in float32 anyway.
        return gym.wrappers.DtypeObservation(gym.make(ENVIRONMENTS[config.env]), np.float32)

    worlds = VecMonitor(DummyVecEnv([world] * config.n_envs))
    if model_file.exists() and buffer_file.exists():
        model = SAC.load(model_file, env=worlds)
        model.load_replay_buffer(buffer_file, truncate_last_traj=True)
        worlds.seed(config.seed + model.num_timesteps)  # new starts, not the first ones again
        # Snapshots taken after the checkpoint belong to a run that is no more.
        rows = [r for r in read_table(table) if int(r["step"]) <= model.num_timesteps]
        write_table(table, TABLE_FIELDS, rows)
        for path in folder.glob("*.safetensors"):
            if path.stem.isdigit() and int(path.stem) > model.num_timesteps:
                path.unlink()
        print(f"{config.env}: resumed at step {model.num_timesteps}", flush=True)
    else:
        config_text = json.dumps(asdict(config), indent=2) + "\n"
        write_atomically(out / "config.json", lambda path: path.write_text(config_text))
        write_table(table, TABLE_FIELDS, [])
        model = SAC(
            "MlpPolicy",
            worlds,
            learning_rate=config.learning_rate,
            buffer_size=config.steps,
            learning_starts=config.learning_starts,
            batch_size=config.batch_size,
            gamma=config.discount,
            train_freq=config.steps_per_round // config.n_envs,  # counted per copy
            gradient_steps=config.updates_per_round,
            policy_kwargs={
                "net_arch": [config.hidden, config.hidden],
                "layer_norm": config.critic_layer_norm,
            },
            seed=config.seed,
        )

    def take_snapshot() -> None:
        arrays, step = actor_arrays(model), model.num_timesteps
        if not all(np.isfinite(a).all() for a in arrays.values()):
            raise FloatingPointError(f"{config.env}: the actor is not finite at step {step}")
        write_atomically(folder / f"{step}.safetensors", lambda path: save_file(arrays, path))
        row: dict[str, Any] = {"environment": config.env, "step": step}
        row |= {
            name: round(value, 3)
            for name, value in measure(config.env, arrays, config.evaluation_episodes).items()
        }
        row |= {"episodes": config.evaluation_episodes, "seed": config.seed}
        with table.open("a", newline="") as file:
            csv.DictWriter(file, TABLE_FIELDS, lineterminator="\n").writerow(row)
        speed = (step - start_step) / (time.monotonic() - start)
        print(f"{','.join(str(v) for v in row.values())}  {speed:.0f} steps/s", flush=True)

    def save_checkpoint() -> None:
        # The buffer first: a kill in between leaves an older model with newer data, which
        # off-policy learning does not mind.
        write_atomically(buffer_file, model.save_replay_buffer)
        write_atomically(model_file, model.save)

    stopped = False

    def stop(*_: Any) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    start, start_step = time.monotonic(), model.num_timesteps
    deadline = float("inf") if minutes is None else start + 60.0 * minutes

    class Keeper(BaseCallback):  # type: ignore[misc]
        """Takes the snapshots and checkpoints when they are due; ends the run when asked."""

        def __init__(self) -> None:
            super().__init__()
            # A new run also keeps the untrained actor.
            self.snapshot_step = 0 if start_step == 0 else snapshot_due(start_step)
            self.checkpoint_time = start + 60.0 * config.checkpoint_minutes

        def _on_step(self) -> bool:
            return not stopped and time.monotonic() < deadline

        def _on_rollout_end(self) -> None:
            if self.num_timesteps >= self.snapshot_step:
                take_snapshot()
                # The actor does not change while the first actions are random.
                self.snapshot_step = snapshot_due(max(self.num_timesteps, config.learning_starts))
            if time.monotonic() >= self.checkpoint_time:
                save_checkpoint()
                self.checkpoint_time = time.monotonic() + 60.0 * config.checkpoint_minutes

    if model.num_timesteps < config.steps:
        remaining = config.steps - model.num_timesteps
        model.learn(remaining, callback=Keeper(), reset_num_timesteps=False)
    save_checkpoint()
    print(f"{config.env}: stopped at step {model.num_timesteps}", flush=True)


def choose(rows: Sequence[dict[str, Any]], count: int = 20) -> list[int]:
    """Steps of the snapshots worth keeping, in training order.

    The untrained actor, the best one (the expert), the three nearest a third of the expert's
    score (candidates for `medium`), then an even spread: half of the rest before medium, because
    `medium-replay` is logged from those, half between medium and the expert.
    """
    rows = sorted(rows, key=lambda row: int(row["step"]))
    score = {int(row["step"]): float(row["normalized_score"]) for row in rows}
    expert = max(score, key=lambda step: score[step])
    steps = [step for step in score if step <= expert]
    by_distance = sorted(steps, key=lambda step: abs(score[step] - score[expert] / 3.0))
    medium = by_distance[0]
    kept = {steps[0], expert, *by_distance[:3]}
    before = [step for step in steps if step < medium and step not in kept]
    after = [step for step in steps if step > medium and step not in kept]
    # Either side may be short of snapshots; the other one then takes its places.
    places = max(count - len(kept), 0)
    first = min(len(before), max(places // 2, places - len(after)))
    for side, n in ((before, first), (after, min(len(after), places - first))):
        kept.update(side[round(i)] for i in np.linspace(0, len(side) - 1, n))
    return sorted(kept)


def pack(env: str, out: Path, count: int = 20, episodes: int = 20) -> None:
    """Store the chosen snapshots of a run in the package, in half precision, and their returns.

    The returns are measured again with the stored weights, so rounding them cannot flatter the
    table. Tensors are named `<step>/layer_0.weight` and so on, see `act`.
    """
    rows = read_table(out / "snapshots.csv")
    measured: list[dict[str, Any]] = []
    tensors: dict[str, np.ndarray] = {}
    for step in choose(rows, count):
        source = next(row for row in rows if int(row["step"]) == step)
        weights = {
            name: array.astype(np.float16)
            for name, array in load_file(out / "snapshots" / f"{step}.safetensors").items()
        }
        row: dict[str, Any] = {"environment": env, "step": step}
        row |= {name: round(value, 3) for name, value in measure(env, weights, episodes).items()}
        row |= {"episodes": episodes, "seed": source["seed"]}
        measured.append(row)
        tensors |= {f"{step}/{name}": array for name, array in weights.items()}
        print(
            f"{env} {step:>8}: {row['return_mean']:9.1f} +- {row['return_std']:.1f}, score "
            f"{row['normalized_score']:.1f} (in training {float(source['normalized_score']):.1f})",
            flush=True,
        )
    SNAPSHOT_FOLDER.mkdir(parents=True, exist_ok=True)
    target = SNAPSHOT_FOLDER / f"{env}.safetensors"
    metadata = {"environment": ENVIRONMENTS[env], "activation": "relu", "layout": "torch.nn.Linear"}
    write_atomically(target, lambda path: save_file(tensors, path, metadata))
    target.chmod(0o644)
    table = SNAPSHOT_FOLDER / "snapshots.csv"
    others = [row for row in read_table(table) if row["environment"] != env]
    ordered = sorted([*others, *measured], key=lambda row: (row["environment"], int(row["step"])))
    write_table(table, TABLE_FIELDS, ordered)


def load_snapshots(env: str, folder: Path = SNAPSHOT_FOLDER) -> dict[int, dict[str, np.ndarray]]:
    """Packed actors of one environment in training order: step -> weights for `act`."""
    actors: dict[int, dict[str, np.ndarray]] = {}
    for name, array in load_file(folder / f"{env}.safetensors").items():
        step, tensor = name.split("/", 1)
        actors.setdefault(int(step), {})[tensor] = array.astype(np.float32)
    return dict(sorted(actors.items()))


def main() -> None:
    """Command line: one run, or its packing."""
    defaults = BehaviourConfig()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--env", choices=sorted(ENVIRONMENTS), default=defaults.env)
    parser.add_argument("--steps", type=int, default=defaults.steps, help="environment steps")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--minutes", type=float, help="stop, resumable, after this long")
    parser.add_argument("--pack", action="store_true", help="store a choice of its snapshots")
    args = parser.parse_args()
    if args.pack:
        pack(args.env, args.out)
        return
    config = replace(defaults, env=args.env, steps=args.steps, seed=args.seed)
    train(config, args.out, args.minutes)


if __name__ == "__main__":
    main()
