"""Smoke runs of every method end in the same bits before and after the move."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import frozen_names as names

FILE = Path(__file__).parent / "frozen.json"


def hopper_data():
    env = gym.make("Hopper-v5")
    rng = np.random.default_rng(0)
    episodes = []
    for k in range(40):
        obs, _ = env.reset(seed=k)
        o, a, r, done = [obs], [], [], False
        while not done:
            action = rng.uniform(-1, 1, 3).astype(np.float32)
            obs, reward, terminated, truncated, _ = env.step(action)
            o.append(obs), a.append(action), r.append(reward)
            done = terminated or truncated or len(r) > 40
        episodes.append(names.Episode(np.stack(o), np.stack(a), np.array(r), terminated))
    return names.from_episodes(episodes, "hopper")


def maze_data():
    from dataclasses import replace

    recipe = replace(names.get_task("pointmaze-umaze").recipe, decisions=800)
    return names.from_episodes(names.record_maze(recipe, False), "maze")


def digest(folder: Path) -> str:
    sha = hashlib.sha256()
    if (folder / "policy.safetensors").exists():
        tensors = load_file(folder / "policy.safetensors")
        for text in sorted(hashlib.sha256(t.tobytes()).hexdigest() for t in tensors.values()):
            sha.update(text.encode())
    sha.update((folder / "episodes.csv").read_bytes())
    return sha.hexdigest()[:16]


DATA = {"pointmaze-umaze": maze_data, "hopper-medium": hopper_data}


@pytest.mark.parametrize("task", DATA)
def test_every_method_ends_in_the_same_bits(task: str, tmp_path: Path) -> None:
    data = DATA[task]()
    found = {}
    for method in names.METHODS:
        config = names.configuration("smoke", task)
        names.run(task, method, 0, config, out=tmp_path, device="cpu", data=data)
        found[method] = digest(next((tmp_path / task).glob(f"{method}/seed-0")))
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get("FREEZE"):
        FILE.write_text(json.dumps({**known, task: found}, indent=1))
    else:
        assert found == {k: v for k, v in known[task].items() if k in found}
