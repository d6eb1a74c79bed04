"""Everything that data and environments are told off with: one short line each (`-s` prints all).

Each names the thing (dataset, episode, file, field), what was expected, and what to do.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from minari.data_collector import EpisodeBuffer

from ipd_lite.data.episodes import Episode, from_arrays, from_episodes
from ipd_lite.data.minari_files import load_minari, local_path, save_minari
from ipd_lite.files import write_atomically
from ipd_lite.paper.dataset import reward_scale
from ipd_lite.tasks.fetch import download, import_d4rl
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.own_data import open_task
from ipd_lite.tasks.registry import TASKS, get_task
from tests.helpers import small_dataset
from tests.test_minari import store_buffers

LONGEST = 160

Trouble = Callable[[], Any]


def episode(steps: int = 3, **changes: Any) -> Episode:
    usual = {
        "observations": np.zeros((steps + 1, 2)),
        "actions": np.zeros((steps, 1)),
        "rewards": np.zeros(steps),
        "terminated": True,
    }
    return Episode(**{**usual, **changes})


def mine(**changes: Any) -> Trouble:
    return lambda: from_episodes([episode(), episode(**changes)], "own/run-v0")


def stored(space: Any = None, action: Any = None, **changes: Any) -> Trouble:
    """A dataset that another program wrote."""

    def read() -> None:
        usual: dict[str, Any] = {
            "observations": np.zeros((3, 2), np.float32),
            "actions": np.zeros((2, 1), np.float32),
            "rewards": [0.0, 1.0],
            "terminations": [False, True],
            "truncations": [False, False],
        }
        box = Box(-1, 1, (2,)) if space is None else space
        actions = Box(-1, 1, (1,)) if action is None else action
        store_buffers([EpisodeBuffer(**{**usual, **changes})], box, actions, "own/other-v0")
        load_minari("own/other-v0")

    return read


def damaged(change: Callable[[Path], Any]) -> Trouble:
    def read() -> None:
        save_minari(from_episodes([episode()], "x"), "own/run-v0")
        change(local_path("own/run-v0"))
        load_minari("own/run-v0")

    return read


def without_environment(**metadata: Any) -> Trouble:
    def read() -> None:
        save_minari(from_episodes([episode()], "x"), "own/run-v0", reference_scores=(0, 1))
        file = local_path("own/run-v0") / "metadata.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **metadata}))
        warnings.warn(open_task(dataset="own/run-v0").no_environment, stacklevel=1)

    return read


def cut(folder: Path) -> None:
    content = (folder / "main_data.hdf5").read_bytes()
    (folder / "main_data.hdf5").write_bytes(content[:500])


def lost_episode(folder: Path) -> None:
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_0"]


def unchained() -> None:
    states = np.random.default_rng(0).normal(size=(100, 2))
    from_arrays(
        states, np.zeros((100, 1)), np.zeros(100), states, np.zeros(100, bool), name="log.hdf5"
    )


def d4rl(**arrays: Any) -> Trouble:
    def read() -> None:
        with h5py.File("hopper.hdf5", "w") as file:
            for name, array in arrays.items():
                file[name] = array
        import_d4rl("hopper.hdf5", get_task("hopper-medium-v2"))

    return read


def other_widths() -> None:
    rows = np.zeros((2, 5), np.float32)
    ends, ones = np.array([False, True]), np.zeros((2, 1), np.float32)
    d4rl(
        observations=rows, next_observations=rows, actions=ones, rewards=ones[:, 0], terminals=ends
    )()


def full_disk() -> None:
    Path("folder").mkdir()
    write_atomically(Path("folder"), "text")  # a folder is in the way


far = 1e9 + np.arange(8.0).reshape(4, 2)

TROUBLES: dict[str, Trouble] = {
    "no dataset": lambda: open_task(dataset=""),
    "unknown id": lambda: open_task(dataset="own/nowhere-v0"),
    "unknown path": lambda: open_task(dataset="./nowhere"),
    "a task": lambda: open_task(dataset="door-human"),
    "a task's data": lambda: open_task(dataset="D4RL/door/human-v2"),
    "data to collect": lambda: load_task(get_task("pointmaze-umaze")),
    "nothing to download": lambda: download(get_task("hopper-medium")),
    "horizon": lambda: open_task("pointmaze-umaze", horizon=0),
    "nothing named": open_task,
    "no metadata": damaged(lambda folder: (folder / "metadata.json").unlink()),
    "cut metadata": damaged(lambda folder: (folder / "metadata.json").write_text("{")),
    "cut file": damaged(cut),
    "no file": damaged(lambda folder: (folder / "main_data.hdf5").unlink()),
    "lost episode": damaged(lost_episode),
    "no version": lambda: save_minari(small_dataset(), "own/run"),
    "exists": lambda: [save_minari(small_dataset(), "own/run-v0") for _ in range(2)],
    "other actions": lambda: save_minari(small_dataset(), "own/p-v0", environment="Pendulum-v1"),
    "discrete": stored(action=Discrete(2), actions=np.array([0, 1])),
    "whole numbers": stored(action=Box(0, 9, (1,), np.int64), actions=np.zeros((2, 1), int)),
    "image": stored(
        Box(0, 255, (8, 8, 3), np.uint8), observations=np.zeros((3, 8, 8, 3), np.uint8)
    ),
    "end in the middle": stored(terminations=[True, False]),
    "unbounded actions": stored(action=Box(-np.inf, np.inf, (1,))),
    "outside the bounds": mine(actions=np.full((3, 1), 3.0)),
    "no episodes": lambda: from_episodes([], "own/run-v0"),
    "no steps": mine(observations=np.zeros((1, 2)), actions=np.zeros((0, 1)), rewards=np.zeros(0)),
    "NaN": mine(rewards=np.array([0, np.nan, 0])),
    "shape": mine(observations=np.zeros((4, 3))),
    "text": mine(actions=np.full((3, 1), "x")),
    "roundings": mine(observations=np.zeros((4, 2), np.float32)),
    "lost digits": lambda: from_episodes([episode(observations=far)], "own/run-v0"),
    "unchained": unchained,
    "no such file": lambda: import_d4rl("nowhere.hdf5", get_task("hopper-medium-v2")),
    "missing field": d4rl(rewards=np.zeros(3)),
    "other robot": other_widths,
    "same returns": lambda: reward_scale(from_episodes([episode()], "own/x"), "return range", 0.99),
    "no environment": without_environment(),
    "other environment": without_environment(env_spec=gym.spec("Pendulum-v1").to_json()),
    "lost package": without_environment(
        env_spec=json.dumps({"id": "Lost-v0", "entry_point": "nowhere:Find"}),
        requirements=["nowhere>=2"],
    ),
    "cannot write": full_disk,
}


@pytest.fixture
def told(
    datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Trouble], str]]:
    """What a trouble says, as an error or as its first warning."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def said(trouble: Trouble) -> str:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                trouble()
            except (ValueError, OSError) as error:
                return str(error)
        return str(caught[0].message)

    yield said


@pytest.mark.parametrize("name", TROUBLES)
def test_message_is_one_short_line(name: str, told: Callable[[Trouble], str]) -> None:
    message = told(TROUBLES[name])
    root = str(Path.cwd().parent)
    text = message.replace(root, "~").replace("[Errno 21] ", "")
    print(f"{name:20} {len(text):4} {text}")
    assert "\n" not in message
    assert 20 < len(text) <= LONGEST, len(text)
    assert "Error" not in text and "Traceback" not in text
    # Expectation or remedy: a verb that tells what to do, or what would have been right.
    wanted = (
        "expected",
        "use",
        "check",
        "`",
        "choose",
        "record",
        "collect",
        "write",
        "repair",
        "remove",
        "split",
        "install",
        "mean",
        "subtract",
        "name",
        "range",
        "clipped",
        "belong",
        "it is as before",
    )
    assert any(word in text for word in wanted)


def test_every_registered_task_says_how_to_get_its_data(datasets: Path) -> None:
    for task in TASKS.values():
        with pytest.raises(ValueError, match="is not on this machine") as caught:
            load_task(task)
        assert len(str(caught.value)) <= LONGEST + len(task.command)
