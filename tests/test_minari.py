"""Reading and writing Minari datasets: nothing changes on the way, and damage is loud."""

from __future__ import annotations

import json
import os
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Space
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.data.minari_files import MAIN_FILE, load_minari, local_path, save_minari
from ipd_lite.paper.dataset import DataError, OfflineDataset
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import TASKS
from tests.helpers import counting_episodes, episode_lists

FIELDS = ("observations", "actions", "rewards", "next_observations", "terminated", "imagined")


def assert_same_data(one: OfflineDataset, other: OfflineDataset) -> None:
    for field in (*FIELDS, "starts", "lengths"):
        assert torch.equal(getattr(one, field), getattr(other, field)), field


@settings(max_examples=12)
@given(episodes=episode_lists(most=4))
def test_arrays_to_minari_and_back_twice_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, episodes: list[Episode]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        original = from_episodes(episodes, "test/once-v0")
        save_minari(original, "test/once-v0")
        first = load_minari("test/once-v0")
        save_minari(first, "test/twice-v0")
        second = load_minari("test/twice-v0")
        files = [(local_path(f"test/{n}-v0") / MAIN_FILE).read_bytes() for n in ("once", "twice")]
        stored = list(minari.load_dataset("test/twice-v0").iterate_episodes())
    assert_same_data(original, first)
    assert_same_data(original, second)
    assert first.name == "test/once-v0"
    assert files[0] == files[1]
    # The arrays that went in, not only what became of them.
    observations = np.concatenate([episode.observations[:-1] for episode in episodes])
    np.testing.assert_array_equal(second.observations.numpy(), observations)
    following = np.concatenate([episode.observations[1:] for episode in episodes])
    np.testing.assert_array_equal(second.next_observations.numpy(), following)
    for before, after in zip(episodes, stored, strict=True):
        for field in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(after, field), getattr(before, field))
        over = [False] * (len(before.rewards) - 1) + [True]
        assert after.terminations.tolist() == [before.terminated and end for end in over]
        assert after.truncations.tolist() == [not before.terminated and end for end in over]
        if before.imagined is not None and before.imagined.any():
            assert after.infos["imagined"].tolist() == before.imagined.tolist()


@st.composite
def foreign_buffers(draw: st.DrawFn) -> tuple[list[EpisodeBuffer], Dict, Box]:
    """Recordings of another program: nested observations, any action bounds, either precision."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from([np.float32, np.float64]))
    widths = [draw(st.integers(1, 3)) for _ in range(4)]
    low = generator.uniform(-9, 9, widths[3]).astype(np.float32)
    high = low + generator.uniform(0.1, 9, widths[3]).astype(np.float32)

    def rows(steps: int, width: int) -> Any:
        return generator.normal(size=(steps + 1, width)).astype(kind)

    buffers = []
    for _ in range(draw(st.integers(1, 4))):
        steps, terminated = draw(st.integers(1, 6)), draw(st.booleans())
        over = [False] * (steps - 1) + [True]
        buffers.append(
            EpisodeBuffer(
                observations={
                    "z": rows(steps, widths[0]),
                    "a": {"y": rows(steps, widths[1]), "b": rows(steps, widths[2])},
                },
                actions=generator.uniform(low, high, (steps, widths[3])).astype(np.float32),
                rewards=generator.normal(size=steps).astype(kind),
                terminations=[terminated and end for end in over],
                truncations=[not terminated and end for end in over],
            )
        )
    box = [Box(-np.inf, np.inf, (width,), kind) for width in widths[:3]]
    space = Dict({"z": box[0], "a": Dict({"y": box[1], "b": box[2]})})
    return buffers, space, Box(low, high, dtype=np.float32)


@settings(max_examples=12)
@given(recorded=foreign_buffers())
def test_any_recording_of_another_program_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, recorded: tuple[list[EpisodeBuffer], Dict, Box]
) -> None:
    buffers, space, actions = recorded
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        store_buffers(buffers, space, actions)
        first = load_minari("test/other-v0")
        save_minari(first, "test/copy-v0")
        assert_same_data(load_minari("test/copy-v0"), first)
    middle = (actions.low.astype(float) + actions.high) / 2
    for number, buffer in enumerate(buffers):
        found = first.select_episodes(torch.tensor([number]))
        parts = [buffer.observations["a"]["b"], buffer.observations["a"]["y"]]
        wanted = np.concatenate([*parts, buffer.observations["z"]], 1).astype(np.float32)
        # Nothing of a neighbouring episode, at either end.
        np.testing.assert_array_equal(found.observations.numpy(), wanted[:-1])
        np.testing.assert_array_equal(found.next_observations.numpy(), wanted[1:])
        np.testing.assert_array_equal(found.rewards.numpy(), buffer.rewards.astype(np.float32))
        unit = (buffer.actions - middle) / (actions.high.astype(float) - middle)
        np.testing.assert_allclose(found.actions.numpy(), unit, atol=1e-4)
        assert found.terminated.tolist() == buffer.terminations
        assert found.truncated.tolist() == buffer.truncations


def tree(group: h5py.Group) -> dict[str, Any]:
    """Everything in an HDF5 file: attributes, shapes, types and numbers."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        found[name] = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            found[name] |= {"array": item[()].tobytes(), "maxshape": item.maxshape}
            found[name] |= {"shape": item.shape, "dtype": item.dtype}

    group.visititems(visit)
    return found


def test_compression_changes_the_size_and_nothing_else(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = [
        Episode(np.cumsum(np.ones((301, 4)) * 1e-3, 0), np.zeros((300, 2)), np.ones(300), False)
        for _ in range(12)
    ]
    imagined = np.arange(300) > 200
    data = from_episodes([replace(e, imagined=imagined) for e in episodes], "test/small-v0")
    save_minari(data, "test/small-v0", environment=None)
    with monkeypatch.context() as patched:
        patched.setattr("ipd_lite.data.minari_files._compress", lambda file: None)
        save_minari(data, "test/plain-v0")
    files = [local_path(f"test/{name}-v0") / MAIN_FILE for name in ("small", "plain")]
    assert files[0].stat().st_size < 0.55 * files[1].stat().st_size
    with h5py.File(files[0]) as small, h5py.File(files[1]) as plain:
        assert list(small) == list(plain)  # the order of the episodes too
        assert tree(small) == tree(plain)
    assert load_minari("test/small-v0").fingerprint() == data.fingerprint()
    metadata = json.loads((files[0].parent / "metadata.json").read_text())
    assert metadata["dataset_size"] < 0.2
    # More can be recorded into it, as into any other dataset of Minari.
    stored = minari.load_dataset("test/small-v0")
    stored.update_dataset_from_buffer(list_of_buffers(data))
    assert load_minari("test/small-v0").episodes == 13


def list_of_buffers(data: OfflineDataset) -> list[EpisodeBuffer]:
    """The first episode, as Minari takes it."""
    length = int(data.lengths[0])
    return [
        EpisodeBuffer(
            observations=torch.cat(
                [data.observations[:length], data.next_observations[length - 1 : length]]
            ).numpy(),
            actions=data.actions[:length].numpy(),
            rewards=data.rewards[:length].numpy(),
            terminations=data.terminated[:length].numpy(),
            truncations=data.truncated[:length].numpy(),
            infos={"imagined": data.imagined[:length].numpy()},
        )
    ]


def test_same_data_gives_the_same_bytes_at_another_time(datasets: Path) -> None:
    data = from_episodes(counting_episodes([5, 2]), "test/same-v0")
    found = []
    for _ in range(2):
        folder = save_minari(data, "test/same-v0", replace_existing=True) / "data"
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
        time.sleep(1.1)  # HDF5 counts whole seconds
    assert found[0] == found[1] and set(found[0]) == {"metadata.json", MAIN_FILE}


def test_minari_itself_reads_what_was_written(datasets: Path) -> None:
    dataset = from_episodes(counting_episodes([3, 2]), "test/counting-v0")
    save_minari(
        dataset, "test/counting-v0", environment="Pendulum-v1", reference_scores=(-1.0, 7.0)
    )
    stored = minari.load_dataset("test/counting-v0")
    terminated, truncated = stored.iterate_episodes()
    assert terminated.observations.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert terminated.terminations.tolist() == [False, False, True]
    assert not terminated.truncations.any()
    assert truncated.truncations.tolist() == [False, True]
    assert not truncated.terminations.any()
    assert float(minari.get_normalized_score(stored, np.array([3.0]))[0]) == 0.5


def store_buffers(
    buffers: list[EpisodeBuffer],
    observation_space: Space[Any],
    action_space: Space[Any],
    name: str = "test/other-v0",
    **metadata: Any,
) -> None:
    """Write a dataset with Minari's own function, as another program would."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # author and code link are missing
        minari.create_dataset_from_buffers(
            name,
            buffers,
            observation_space=observation_space,
            action_space=action_space,
            **metadata,
        )


@pytest.fixture
def thermostat(datasets: Path) -> str:
    """Two episodes with nested observations and actions in watts: one truncated, one terminated."""
    buffers = []
    for watts, steps, terminated in ((0.0, 6, False), (3.0, 2, True)):
        clock = np.arange(steps + 1, dtype=np.float32)
        over = [False] * (steps - 1) + [True]
        buffers.append(
            EpisodeBuffer(
                observations={
                    "temperature": (watts * clock)[:, None],
                    "clock": np.stack([clock, 2 * clock], 1),
                },
                actions=np.full((steps, 1), watts, np.float32),
                rewards=-watts * clock[1:],
                terminations=[terminated and end for end in over],
                truncations=[not terminated and end for end in over],
            )
        )
    degrees, clock_space = Box(-np.inf, np.inf, (1,)), Box(0, np.inf, (2,))
    space = Dict({"temperature": degrees, "clock": clock_space})
    store_buffers(buffers, space, Box(-3.0, 5.0, (1,)))
    return "test/other-v0"


def test_dataset_of_another_program_reads_as_it_was_recorded(thermostat: str) -> None:
    dataset = load_minari(thermostat)
    assert dataset.lengths.tolist() == [6, 2]
    # Keys in sorted order: clock, then temperature.
    assert dataset.observations[-2:].tolist() == [[0, 0, 0], [1, 2, 3]]
    assert dataset.next_observations[-2:].tolist() == [[1, 2, 3], [2, 4, 6]]
    assert dataset.next_observations[:6, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert dataset.rewards[-2:].tolist() == [-3, -6]
    assert dataset.terminated.tolist() == [False] * 7 + [True]
    assert dataset.truncated.tolist() == [False] * 5 + [True, False, False]
    # Watts in [-3, 5] become [-1, 1].
    torch.testing.assert_close(dataset.actions[[0, 6], 0], torch.tensor([-0.25, 0.5]))


def test_a_path_works_like_an_id(thermostat: str) -> None:
    by_id = load_minari(thermostat)
    folder = local_path(thermostat)
    assert_same_data(load_minari(folder), by_id)
    assert_same_data(load_minari(folder.parent), by_id)


def test_existing_dataset_is_kept_unless_replaced(datasets: Path) -> None:
    old = from_episodes(counting_episodes([3]), "test/same-v0")
    new = from_episodes(counting_episodes([5, 2]), "test/same-v0")
    save_minari(old, "test/same-v0")
    with pytest.raises(DataError, match="exists already"):
        save_minari(new, "test/same-v0")
    assert_same_data(load_minari("test/same-v0"), old)
    save_minari(new, "test/same-v0", replace_existing=True)
    assert_same_data(load_minari("test/same-v0"), new)


@pytest.mark.parametrize("name", ["test/same", "same", "a b-v0", "", "test/-v", "../up-v0"])
def test_ids_that_minari_cannot_read_are_refused(name: str, datasets: Path) -> None:
    with pytest.raises(DataError, match="expected NAME-vNUMBER, for instance own/run-v0"):
        save_minari(from_episodes(counting_episodes([3]), "x"), name)


def test_scores_of_numpy_are_numbers(datasets: Path) -> None:
    data = from_episodes(counting_episodes([3]), "x")
    scores = (np.float32(1.5), np.int64(7))
    folder = save_minari(data, "test/x-v0", reference_scores=scores)  # type: ignore[arg-type]
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (1.5, 7.0)


def test_failed_write_leaves_the_old_dataset_and_no_rubbish(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = from_episodes(counting_episodes([3]), "test/same-v0")
    save_minari(old, "test/same-v0")

    def disk_full(**kwargs: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(minari, "create_dataset_from_buffers", disk_full)
    with pytest.raises(OSError, match=r"same-v0: cannot be written \(no space left\); nothing"):
        save_minari(old, "test/same-v0", replace_existing=True)
    assert_same_data(load_minari("test/same-v0"), old)
    assert [path.name for path in datasets.iterdir()] == ["test"]
    assert os.environ["MINARI_DATASETS_PATH"] == str(datasets)


def test_interrupted_replacement_leaves_the_old_dataset(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (from_episodes(counting_episodes([n]), "test/same-v0") for n in (3, 5))
    target = save_minari(old, "test/same-v0")
    rename = os.replace

    def interrupted(source: Any, place: Any) -> None:
        if place == target and not str(source).endswith(".old"):
            raise KeyboardInterrupt
        rename(source, place)

    with monkeypatch.context() as patched:
        patched.setattr("ipd_lite.data.minari_files.os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_minari(new, "test/same-v0", replace_existing=True)
    assert_same_data(load_minari("test/same-v0"), old)
    assert [path.name for path in datasets.iterdir()] == ["test"]
    save_minari(new, "test/same-v0", replace_existing=True)
    assert_same_data(load_minari("test/same-v0"), new)


def test_missing_dataset_says_how_to_get_it(datasets: Path) -> None:
    with pytest.raises(DataError, match="test/nowhere-v0 is not on this machine"):
        load_minari("test/nowhere-v0")
    with pytest.raises(DataError, match="ipd-lite collect pointmaze-umaze"):
        load_task(TASKS["pointmaze-umaze"])


def test_task_data_is_read_again_when_it_was_made_again(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(TASKS["pointmaze-umaze"], dataset="test/again-v0")
    old, new = (from_episodes(counting_episodes([n]), task.dataset) for n in (3, 5))
    save_minari(old, task.dataset)
    assert_same_data(load_task(task), old)
    save_minari(new, task.dataset, replace_existing=True)
    assert_same_data(load_task(task), new)
    # The same id in another folder, written at the same moment, is another dataset.
    moment = (local_path(task.dataset) / "metadata.json").stat().st_mtime_ns
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(datasets / "elsewhere"))
    save_minari(old, task.dataset)
    os.utime(local_path(task.dataset) / "metadata.json", ns=(moment, moment))
    assert_same_data(load_task(task), old)


def test_task_data_without_metadata_is_an_error(datasets: Path) -> None:
    task = replace(TASKS["pointmaze-umaze"], dataset="test/bare-v0")
    save_minari(from_episodes(counting_episodes([3]), task.dataset), task.dataset)
    (local_path(task.dataset) / "metadata.json").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_task(task)


@pytest.fixture
def stored(datasets: Path) -> Path:
    """Folder with the files of a small valid dataset."""
    dataset = from_episodes(counting_episodes([3, 4]), "test/small-v0")
    return save_minari(dataset, "test/small-v0") / "data"


def test_actions_of_another_environment_are_refused(datasets: Path) -> None:
    episode = Episode(np.zeros((4, 3)), np.zeros((3, 2)), np.zeros(3), False)
    with pytest.raises(
        DataError, match=r"actions has shape \(3, 2\), but Pendulum-v1 takes \(1,\)"
    ):
        save_minari(from_episodes([episode], "x"), "test/wide-v0", environment="Pendulum-v1")
    assert list(datasets.iterdir()) == []


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.9])
def test_truncated_hdf5_is_an_error(stored: Path, kept: float) -> None:
    file = stored / "main_data.hdf5"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"test/small-v0: cannot be read.*again"):
        load_minari("test/small-v0")


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_overwritten_hdf5_never_breaks_in_another_way(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Garbage in the file is an error of ours, or (if it hit no structure) readable data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        dataset = from_episodes(counting_episodes([2]), "test/small-v0")
        file = save_minari(dataset, "test/small-v0") / "data" / "main_data.hdf5"
        generator = np.random.default_rng(seed)
        content = np.frombuffer(file.read_bytes(), np.uint8).copy()
        begin = generator.integers(len(content))
        garbage = generator.integers(0, 256, 200, dtype=np.uint8)[: len(content) - begin]
        content[begin : begin + len(garbage)] = garbage
        file.write_bytes(content.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = load_minari("test/small-v0")
            except DataError as error:
                assert "test/small-v0" in str(error)
            else:
                assert found.observations.isfinite().all()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_damaged_metadata_is_an_error(stored: Path, content: str) -> None:
    (stored / "metadata.json").write_text(content)
    with pytest.raises(DataError, match="cannot be read"):
        load_minari("test/small-v0")


@pytest.mark.parametrize("name", ["metadata.json", "main_data.hdf5"])
def test_missing_file_is_an_error(stored: Path, name: str) -> None:
    (stored / name).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_minari("test/small-v0")


@pytest.mark.parametrize(("field", "value"), [("total_steps", 8), ("total_episodes", 1)])
def test_counts_that_disagree_with_the_metadata_are_an_error(
    stored: Path, field: str, value: int
) -> None:
    metadata = json.loads((stored / "metadata.json").read_text())
    (stored / "metadata.json").write_text(json.dumps({**metadata, field: value}))
    with pytest.raises(DataError, match="its metadata says"):
        load_minari("test/small-v0")


def test_more_episodes_than_the_metadata_says_are_an_error(stored: Path) -> None:
    metadata = json.loads((stored / "metadata.json").read_text())
    episodes = metadata["total_episodes"]
    fewer = {"total_episodes": episodes - 1, "total_steps": 1}
    (stored / "metadata.json").write_text(json.dumps({**metadata, **fewer}))
    with pytest.raises(DataError, match=f"holds {episodes} episodes, its metadata says"):
        load_minari("test/small-v0")
    (stored / "metadata.json").write_text(json.dumps({**metadata, "total_episodes": "2"}))
    with pytest.raises(DataError, match="total_episodes = '2' in its metadata, expected a number"):
        load_minari("test/small-v0")


def test_missing_episode_is_an_error(stored: Path) -> None:
    with h5py.File(stored / "main_data.hdf5", "a") as file:
        del file["episode_1"]
    with pytest.raises(DataError, match="cannot be read"):
        load_minari("test/small-v0")


def test_nan_inside_the_file_is_located(stored: Path) -> None:
    with h5py.File(stored / "main_data.hdf5", "a") as file:
        file["episode_1"]["rewards"][2] = np.nan
    with pytest.raises(
        DataError, match="test/small-v0, episode 1: rewards is not finite at step 2"
    ):
        load_minari("test/small-v0")


def two_steps(observations: Any, actions: Any) -> list[EpisodeBuffer]:
    """One episode of two steps."""
    return [
        EpisodeBuffer(
            observations=observations,
            actions=actions,
            rewards=[0.0, 1.0],
            terminations=[False, True],
            truncations=[False, False],
        )
    ]


def test_discrete_actions_are_refused(datasets: Path) -> None:
    box = Box(-1, 1, (2,))
    store_buffers(two_steps(np.zeros((3, 2), np.float32), np.array([0, 1])), box, Discrete(2))
    with pytest.raises(DataError, match=r"action space is Discrete\(2\), expected a one-dim"):
        load_minari("test/other-v0")


def test_whole_numbered_action_space_is_refused(datasets: Path) -> None:
    levels = Box(0, 9, (1,), np.int64)
    store_buffers(
        two_steps(np.zeros((3, 2), np.float32), np.array([[3], [4]])), Box(-1, 1, (2,)), levels
    )
    with pytest.raises(DataError, match="expected real numbers; discrete actions"):
        load_minari("test/other-v0")


def test_images_are_refused(datasets: Path) -> None:
    image, action = Box(0, 255, (8, 8, 3), np.uint8), Box(-1, 1, (1,))
    pixels, pushes = np.zeros((3, 8, 8, 3), np.uint8), np.zeros((2, 1), np.float32)
    store_buffers(two_steps(pixels, pushes), image, action)
    with pytest.raises(DataError, match="expected a one-dimensional Box"):
        load_minari("test/other-v0")


def test_unbounded_actions_are_scaled_by_their_own_range(datasets: Path) -> None:
    actions = np.array([[3.0], [0.5]], np.float32)
    free = Box(-np.inf, np.inf, (1,))
    store_buffers(two_steps(np.zeros((3, 2), np.float32), actions), Box(-1, 1, (2,)), free)
    with pytest.warns(UserWarning, match=r"bounds \[-inf, inf\] of action entry 0 .* \[0.5, 3\]"):
        dataset = load_minari("test/other-v0")
    assert dataset.actions[:, 0].tolist() == [1.0, -1.0]


def test_environment_bounds_survive_the_round_trip(datasets: Path) -> None:
    """Stored in the environment's own units (Pendulum: torque in [-2, 2]), read back in [-1, 1]."""
    generator = np.random.default_rng(0)
    episode = Episode(
        generator.normal(size=(6, 3)), generator.uniform(-1, 1, (5, 1)), np.zeros(5), False
    )
    dataset = from_episodes([episode], "test/pendulum-v0")
    save_minari(dataset, "test/pendulum-v0", environment="Pendulum-v1")
    with h5py.File(local_path("test/pendulum-v0") / "main_data.hdf5") as file:
        np.testing.assert_allclose(file["episode_0"]["actions"][:], 2 * episode.actions, rtol=1e-6)
    torch.testing.assert_close(load_minari("test/pendulum-v0").actions, dataset.actions)
