"""D4RL's files and Minari's server: nothing lost, nothing half-written, every failure named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from ipd_lite.data.episodes import Episode, from_arrays, from_episodes
from ipd_lite.data.minari_files import local_path, save_minari
from ipd_lite.paper.dataset import DataError
from ipd_lite.tasks import fetch
from ipd_lite.tasks.fetch import download, import_d4rl
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import TASKS, get_task
from ipd_lite.tasks.task import Task
from tests.helpers import episode_lists
from tests.test_minari import FIELDS

TASK = get_task("hopper-medium-v2")


def d4rl_arrays(ends: list[str], steps: int = 4) -> dict[str, np.ndarray]:
    """Episodes of `steps` transitions as in D4RL's v2 files, each ending as named: "terminal",
    "timeout", or "unmarked" (the log simply goes on with a new start)."""
    count = steps * len(ends)
    generator = np.random.default_rng(0)
    observations = np.empty((count, 11), np.float32)
    following = np.empty_like(observations)
    for i in range(len(ends)):
        states = generator.normal(size=(steps + 1, 11)).astype(np.float32)
        rows = slice(i * steps, (i + 1) * steps)
        observations[rows], following[rows] = states[:-1], states[1:]
    last = np.zeros(count, bool)
    last[steps - 1 :: steps] = True
    kinds = np.repeat(np.array(ends), steps)
    return {
        "observations": observations,
        "next_observations": following,
        "actions": generator.uniform(-1, 1, (count, 3)).astype(np.float32),
        "rewards": np.arange(count, dtype=np.float32),
        "terminals": last & (kinds == "terminal"),
        "timeouts": last & (kinds == "timeout"),
    }


def write(path: Path, arrays: dict[str, np.ndarray]) -> str:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file["infos/action_log_probs"] = np.zeros(3)  # the real files have these too
        file["metadata/algorithm"] = "SAC"
    return str(path)


def test_ends_of_every_kind(datasets: Path, tmp_path: Path) -> None:
    arrays = d4rl_arrays(["terminal", "timeout", "unmarked", "terminal", "unmarked"])
    data = import_d4rl(write(tmp_path / "hopper.hdf5", arrays), TASK)
    assert len(data) == 20
    assert data.lengths.tolist() == [4] * 5
    ends = data.starts + data.lengths - 1
    assert data.terminated[ends].tolist() == [True, False, False, True, False]
    assert data.terminated.sum() == 2
    for field in ("observations", "next_observations", "rewards", "actions"):
        np.testing.assert_array_equal(getattr(data, field).numpy(), arrays[field])
    stored = minari.load_dataset(TASK.dataset)
    assert [len(e.observations) for e in stored.iterate_episodes()] == [5] * 5
    metadata = stored.storage.metadata
    assert metadata["ref_min_score"] == TASK.reference_min == -20.272305
    assert metadata["ref_max_score"] == TASK.reference_max == 3234.3
    assert torch.equal(load_task(TASK).observations, data.observations)


def test_unfinished_last_episode_is_kept(datasets: Path, tmp_path: Path) -> None:
    arrays = {name: array[:10] for name, array in d4rl_arrays(["terminal"] * 3).items()}
    data = import_d4rl(write(tmp_path / "cut.hdf5", arrays), TASK)
    assert data.lengths.tolist() == [4, 4, 2]
    assert data.truncated.nonzero().flatten().tolist() == [9]


def test_file_without_timeouts_is_split_where_it_jumps(datasets: Path, tmp_path: Path) -> None:
    arrays = d4rl_arrays(["unmarked", "unmarked", "terminal"])
    del arrays["timeouts"]
    assert import_d4rl(write(tmp_path / "x.hdf5", arrays), TASK).lengths.tolist() == [4, 4, 4]


@settings(max_examples=30)
@given(episodes=episode_lists(imagined=False))
def test_flat_logs_of_any_episodes_come_back_as_they_were(episodes: list[Episode]) -> None:
    expected = from_episodes(episodes, "x")
    ends = expected.starts + expected.lengths - 1
    truncated = torch.zeros(len(expected), dtype=torch.bool)
    truncated[ends] = ~expected.terminated[ends]
    found = from_arrays(
        *(getattr(expected, f).numpy() for f in ("observations", "actions", "rewards")),
        expected.next_observations.numpy(),
        expected.terminated.numpy(),
        truncated.numpy(),
    )
    for field in (*FIELDS, "starts", "lengths"):
        assert torch.equal(getattr(found, field), getattr(expected, field)), field


@pytest.mark.parametrize("missing", fetch.D4RL_FIELDS)
def test_missing_field_is_named(missing: str, datasets: Path, tmp_path: Path) -> None:
    arrays = d4rl_arrays(["terminal"])
    del arrays[missing]
    with pytest.raises(DataError, match=f"old.hdf5: has no {missing}, expected in every v2"):
        import_d4rl(write(tmp_path / "old.hdf5", arrays), TASK)
    assert list(datasets.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("rewards", lambda a: a[:-1], r"observations has shape \(4, 11\), expected \(3, width\)"),
        (
            "observations",
            lambda a: a[:, 0],
            r"observations has shape \(4,\), expected \(4, width\)",
        ),
        ("next_observations", lambda a: a[:, :5], "next_observations has shape"),
        ("rewards", lambda a: a * np.nan, "episode 0: rewards is not finite at step 0"),
        ("actions", lambda a: a + np.inf, "episode 0: actions is not finite at step 0"),
        ("rewards", lambda a: a.astype("S3"), "episode 0: rewards has type .S3"),
    ],
)
def test_bad_arrays_are_named(
    field: str, change: Any, message: str, datasets: Path, tmp_path: Path
) -> None:
    arrays = d4rl_arrays(["terminal"])
    arrays[field] = change(arrays[field])
    with pytest.raises(DataError, match=message):
        import_d4rl(write(tmp_path / "bad.hdf5", arrays), TASK)
    assert list(datasets.iterdir()) == []


def test_empty_and_unreadable_files_are_errors(datasets: Path, tmp_path: Path) -> None:
    nothing = {name: array[:0] for name, array in d4rl_arrays(["terminal"]).items()}
    with pytest.raises(DataError, match="there are no transitions"):
        import_d4rl(write(tmp_path / "empty.hdf5", nothing), TASK)
    path = tmp_path / "text.hdf5"
    path.write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"text\.hdf5: cannot be read as HDF5"):
        import_d4rl(str(path), TASK)
    with pytest.raises(DataError, match=r"nowhere\.hdf5: no such file"):
        import_d4rl(str(tmp_path / "nowhere.hdf5"), TASK)
    whole = write(tmp_path / "whole.hdf5", d4rl_arrays(["terminal"]))
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(Path(whole).read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut\.hdf5: cannot be read as HDF5"):
        import_d4rl(str(cut), TASK)
    assert list(datasets.iterdir()) == []


def test_existing_import_is_kept_unless_replaced(datasets: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "one.hdf5", d4rl_arrays(["terminal"]))
    two = write(tmp_path / "two.hdf5", d4rl_arrays(["terminal"] * 2))
    import_d4rl(one, TASK)
    with pytest.raises(DataError, match="--replace"):
        import_d4rl(two, TASK)
    assert import_d4rl(two, TASK, replace_existing=True).episodes == 2


def test_file_of_another_robot_replaces_nothing(datasets: Path, tmp_path: Path) -> None:
    good = write(tmp_path / "good.hdf5", d4rl_arrays(["terminal"]))
    before = import_d4rl(good, TASK).fingerprint()
    for field, width, message in (
        ("observations", 17, "has observations of shape .11,., .*wrong.hdf5 has .17,."),
        ("actions", 6, "has actions of shape .3,., .*wrong.hdf5 has .6,."),
    ):
        arrays = d4rl_arrays(["terminal"])
        for name in (field, f"next_{field}"):
            if name in arrays:
                arrays[name] = np.zeros((4, width), np.float32)
        with pytest.raises(DataError, match=message):
            import_d4rl(write(tmp_path / "wrong.hdf5", arrays), TASK, replace_existing=True)
        assert load_task(TASK).fingerprint() == before


# ---------------------------------------------------------------- addresses


def test_an_address_is_downloaded(datasets: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "hopper.hdf5", d4rl_arrays(["terminal"]))
    assert len(import_d4rl(f"file://{path}", TASK)) == 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a real server that offers hopper.hdf5, and breaks off /cut/hopper.hdf5."""
    content = Path(write(tmp_path / "hopper.hdf5", d4rl_arrays(["terminal"]))).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.endswith("/hopper.hdf5"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:500] if self.path.startswith("/cut/") else content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def test_a_real_server(server: str, datasets: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be fetched \(HTTP Error 404"):
        import_d4rl(f"{server}/nothing.hdf5", TASK)
    with pytest.raises(DataError, match=r"broke off after 500 of|IncompleteRead"):
        import_d4rl(f"{server}/cut/hopper.hdf5", TASK)
    assert list(datasets.iterdir()) == []
    assert len(import_d4rl(f"{server}/hopper.hdf5", TASK)) == 4
    text = (local_path(TASK.dataset) / "metadata.json").read_text()
    assert "imported from hopper.hdf5" in text


class BrokenAnswer:
    """A server that promises more than it sends."""

    def __init__(self, content: bytes, promised: int) -> None:
        self.blocks, self.headers = [content, b""], {"Content-Length": str(promised)}

    def read(self, size: int) -> bytes:
        return self.blocks.pop(0)

    def __enter__(self) -> BrokenAnswer:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_interrupted_download_leaves_nothing(
    datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(write(tmp_path / "x.hdf5", d4rl_arrays(["terminal"]))).read_bytes()
    monkeypatch.setattr(fetch.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    answer = BrokenAnswer(whole[:500], len(whole))
    monkeypatch.setattr(fetch.urllib.request, "urlopen", lambda *_, **__: answer)
    with pytest.raises(DataError, match=f"broke off after 500 of {len(whole)} bytes"):
        import_d4rl("http://example.org/x.hdf5", TASK)
    assert list(datasets.iterdir()) == list((tmp_path / "temporary").iterdir()) == []


def test_offline_import_says_so(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(fetch.urllib.request, "urlopen", unreachable)
    with pytest.raises(DataError, match="network is unreachable"):
        import_d4rl("https://example.org/x.hdf5", TASK)
    assert list(datasets.iterdir()) == []


# ---------------------------------------------------------------- Minari's server

REMOTE = get_task("door-human")


WIDTHS = {"D4RL/door/human-v2": (39, 28), "mujoco/hopper/medium-v0": (11, 3)}


def stored_at(dataset: str, narrower: int = 0) -> None:
    observations, actions = WIDTHS[dataset]
    episodes = [
        Episode(
            np.zeros((length + 1, observations - narrower)),
            np.zeros((length, actions)),
            np.zeros(length),
            terminated=False,
        )
        for length in (3, 2)
    ]
    save_minari(from_episodes(episodes, dataset), dataset)


def test_download_puts_a_checked_dataset_in_its_place(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minari, "download_dataset", stored_at)
    assert download(REMOTE).lengths.tolist() == [3, 2]
    assert load_task(REMOTE).lengths.tolist() == [3, 2]
    assert [path.name for path in datasets.iterdir()] == ["D4RL"]
    with pytest.raises(DataError, match="--replace"):
        download(REMOTE)
    assert download(REMOTE, replace_existing=True).episodes == 2


@pytest.mark.parametrize("failure", [ConnectionError("offline"), KeyboardInterrupt()])
def test_failed_download_leaves_nothing(
    failure: BaseException, datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(dataset: str) -> None:
        stored_at(dataset)
        raise failure

    monkeypatch.setattr(minari, "download_dataset", interrupted)
    with pytest.raises((DataError, KeyboardInterrupt)) as caught:
        download(REMOTE)
    assert list(datasets.iterdir()) == []
    if caught.type is DataError:
        assert "D4RL/door/human-v2 (> 3.7 MB) cannot be fetched (offline)" in str(caught.value)
        assert "--task pointmaze-medium" in str(caught.value)


def test_damaged_download_leaves_nothing(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(dataset: str) -> None:
        stored_at(dataset)
        path = Path(minari.storage.get_dataset_path(dataset)) / "data" / "main_data.hdf5"
        path.write_bytes(path.read_bytes()[:1000])

    monkeypatch.setattr(minari, "download_dataset", damaged)
    with pytest.raises(DataError, match="D4RL/door/human-v2: cannot be read"):
        download(REMOTE)
    assert list(datasets.iterdir()) == []


def test_download_of_another_width_replaces_nothing(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minari, "download_dataset", stored_at)
    before = download(REMOTE).fingerprint()
    monkeypatch.setattr(minari, "download_dataset", lambda name: stored_at(name, narrower=1))
    with pytest.raises(DataError, match=r"has observations of shape .39,., .* has .38,."):
        download(REMOTE, replace_existing=True)
    assert load_task(REMOTE).fingerprint() == before


def test_an_environment_that_is_not_installed_does_not_prevent_a_download(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: Any) -> Any:
        raise ModuleNotFoundError("gymnasium_robotics")

    monkeypatch.setattr(minari, "download_dataset", stored_at)
    monkeypatch.setattr(Task, "make", missing)
    assert download(REMOTE).episodes == 2


def test_minari_locomotion_warns_that_it_is_not_d4rl(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minari, "download_dataset", stored_at)
    task = get_task("hopper-medium-minari")
    with pytest.warns(UserWarning, match="mujoco/hopper/medium-v0: .*not D4RL's"):
        download(task)
    with pytest.warns(UserWarning, match="not D4RL's"):
        load_task(task)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_missing_data_names_size_command_and_alternative(datasets: Path, task: Any) -> None:
    with pytest.raises(DataError) as caught:
        load_task(task)
    message = str(caught.value)
    assert "\n" not in message
    assert task.dataset in message and f"`{task.command}`" in message
    if task.recipe is None:
        assert " MB, about " in message
        assert TASKS[task.alternative].recipe
        assert f"--task {task.alternative}" in message


def test_task_without_a_remote_names_its_own_command(datasets: Path) -> None:
    with pytest.raises(DataError, match="not on Minari's server; use `ipd-lite collect"):
        download(get_task("hopper-medium"))
    with pytest.raises(DataError, match="use `ipd-lite import-d4rl"):
        download(TASK)
