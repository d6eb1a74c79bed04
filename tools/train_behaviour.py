"""Train the behaviour policies of the locomotion datasets: SAC, with actor snapshots on the way.

D4RL (Fu et al., 2020, Section 4) makes its Gym sets from soft actor-critic: a partly trained
actor logs `medium`, everything up to it logs `medium-replay`, half medium and half expert logs
`medium-expert`. This script is the one slow step of that recipe. It trains SAC (or TQC, its
distributional relative, which learns Hopper and Walker2d in fewer steps) with SBX, which is
Stable-Baselines3 in JAX, and keeps a small copy of the actor every few thousand steps:

    pip install "ipd-lite[collect]"
    python tools/train_behaviour.py --env hopper --out runs/behaviour/hopper

A stopped run continues when the command is given again. It resumes from its last full checkpoint
(networks, optimizers, replay buffer) with fresh environment and sampling noise: the continued run
is a valid run of the algorithm, but not bit for bit the one that was never stopped.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from safetensors.numpy import save_file

from ipd_lite.tasks.snapshots import ENVIRONMENTS


@dataclass(frozen=True)
class Behaviour:
    """One training run."""

    env: Literal["hopper", "halfcheetah", "walker2d"]
    out: Path
    """The run's folder."""
    algorithm: Literal["sac", "tqc"] = "sac"
    steps: int = 2_000_000
    """Environment steps in total, a resumed run included."""
    seed: int = 0
    actor_width: int = 128
    """Half the usual width: forty snapshots of each robot then fit into the package."""
    critic_width: int = 256
    batch_size: int = 256
    learning_rate: float = 3e-4
    discount: float = 0.99
    dropped_quantiles: int = 5
    """TQC alone: greatest quantiles per critic that the target leaves out (5 for Hopper)."""
    copies: int = 16
    """Environments stepped together."""
    steps_per_round: int = 64
    """Environment steps, all copies together, between two blocks of updates."""
    updates_per_round: int = 64
    learning_starts: int = 10_000
    """Environment steps with uniformly random actions."""
    snapshot_every: int = 10_000
    checkpoint_minutes: float = 10.0
    minutes: float | None = None
    """Stop, resumable, after this long."""


def actor_arrays(model: Any) -> dict[str, np.ndarray]:
    """The actor's layers from an SBX model, half precision, in `torch.nn.Linear`'s layout."""
    layers = model.policy.actor_state.params["params"]
    # Flax numbers the layers in the order of their calls: hidden ones, mean, log_std.
    names = [f"layer_{i}" for i in range(len(layers) - 2)] + ["mean", "log_std"]
    arrays = {}
    for i, name in enumerate(names):
        kernel, bias = layers[f"Dense_{i}"]["kernel"], layers[f"Dense_{i}"]["bias"]
        arrays[f"{name}.weight"] = np.ascontiguousarray(np.asarray(kernel).T, np.float16)
        arrays[f"{name}.bias"] = np.ascontiguousarray(bias, np.float16)
    return arrays


def new_model(run: Behaviour, worlds: Any) -> Any:
    """A fresh SAC or TQC with the run's sizes."""
    from sbx import SAC, TQC

    algorithm = {"sac": SAC, "tqc": TQC}[run.algorithm]
    own: dict[str, Any] = {}
    policy = {"net_arch": {"pi": [run.actor_width] * 2, "qf": [run.critic_width] * 2}}
    if run.algorithm == "tqc":
        own = {"top_quantiles_to_drop_per_net": run.dropped_quantiles}
    return algorithm(
        "MlpPolicy",
        worlds,
        learning_rate=run.learning_rate,
        buffer_size=min(run.steps, 1_000_000),
        learning_starts=run.learning_starts,
        batch_size=run.batch_size,
        gamma=run.discount,
        train_freq=run.steps_per_round // run.copies,  # counted per copy
        gradient_steps=run.updates_per_round,
        policy_kwargs=policy,
        seed=run.seed,
        **own,
    )


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(temporary path)`, then move the file into place in one step."""
    temporary = path.with_name("partial-" + path.name)
    write(temporary)
    os.replace(temporary, path)


def train(run: Behaviour) -> None:
    """Run up to `run.steps`, or resume.

    Writes into `run.out`: `config.json`, `snapshots/<step>.safetensors`, `progress.csv` (mean
    return of the last hundred training episodes, exploration noise included) and the checkpoint
    `model.zip` + `buffer.pkl` in Stable-Baselines3's own format.
    """
    from sbx import SAC, TQC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

    folder = run.out / "snapshots"
    model_file, buffer_file = run.out / "model.zip", run.out / "buffer.pkl"
    folder.mkdir(parents=True, exist_ok=True)

    def world() -> gym.Env:
        # float32 halves the replay buffer; the networks compute in float32 anyway.
        return gym.wrappers.DtypeObservation(gym.make(ENVIRONMENTS[run.env]), np.float32)

    worlds = VecMonitor(DummyVecEnv([world] * run.copies))
    if model_file.exists() and buffer_file.exists():
        model = {"sac": SAC, "tqc": TQC}[run.algorithm].load(model_file, env=worlds)
        model.load_replay_buffer(buffer_file, truncate_last_traj=True)
        worlds.seed(run.seed + model.num_timesteps)  # new starts, not the first ones again
        # Snapshots taken after the checkpoint belong to a run that is no more.
        for path in folder.glob("*.safetensors"):
            if path.stem.isdigit() and int(path.stem) > model.num_timesteps:
                path.unlink()
        print(f"{run.env}: resumed at step {model.num_timesteps}", flush=True)
    else:
        text = json.dumps(asdict(run), indent=2, default=str) + "\n"
        write_atomically(run.out / "config.json", lambda path: path.write_text(text))
        model = new_model(run, worlds)

    start, start_step = time.monotonic(), model.num_timesteps

    def take_snapshot() -> None:
        arrays, step = actor_arrays(model), model.num_timesteps
        if not all(np.isfinite(a).all() for a in arrays.values()):
            raise FloatingPointError(f"{run.env}: the actor is not finite at step {step}")
        write_atomically(folder / f"{step}.safetensors", lambda path: save_file(arrays, path))
        recent = [episode["r"] for episode in model.ep_info_buffer] or [float("nan")]
        speed = (step - start_step) / (time.monotonic() - start)
        row = [step, round(float(np.mean(recent)), 1), round(float(np.max(recent)), 1)]
        with (run.out / "progress.csv").open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        print(f"{run.env} {run.algorithm} {run.seed}: {row} {speed:.0f} steps/s", flush=True)

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
    deadline = float("inf") if run.minutes is None else start + 60.0 * run.minutes

    class Keeper(BaseCallback):  # type: ignore[misc]
        """Takes the snapshots and checkpoints when they are due; ends the run when asked."""

        def __init__(self) -> None:
            super().__init__()
            self.snapshot_step = start_step  # a new run also keeps the untrained actor
            self.checkpoint_time = start + 60.0 * run.checkpoint_minutes

        def _on_step(self) -> bool:
            return not stopped and time.monotonic() < deadline

        def _on_rollout_end(self) -> None:
            if self.num_timesteps >= self.snapshot_step:
                take_snapshot()
                every = run.snapshot_every
                # The actor does not change while the first actions are random.
                reached = max(self.num_timesteps, run.learning_starts)
                self.snapshot_step = (reached // every + 1) * every
            if time.monotonic() >= self.checkpoint_time:
                save_checkpoint()
                self.checkpoint_time = time.monotonic() + 60.0 * run.checkpoint_minutes

    if model.num_timesteps < run.steps:
        remaining = run.steps - model.num_timesteps
        model.learn(remaining, callback=Keeper(), reset_num_timesteps=False)
    if run.checkpoint_minutes < float("inf"):
        save_checkpoint()
    print(f"{run.env}: stopped at step {model.num_timesteps}", flush=True)


if __name__ == "__main__":
    train(tyro.cli(Behaviour))
