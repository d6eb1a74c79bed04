"""Other people's recordings: no registry entry, missing pieces, and clear refusals."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict
from minari.data_collector import EpisodeBuffer

from ipd_lite.cli import _default_config, main
from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.data.minari_files import load_minari, local_path, save_minari
from ipd_lite.paper.acting import FunctionActor
from ipd_lite.paper.dataset import DataError
from ipd_lite.settings import EvaluationConfig, preset
from ipd_lite.study.pipeline import Pipeline
from ipd_lite.study.run import evaluate_again, run
from ipd_lite.study.spec import other_data
from ipd_lite.tasks import rollout as rollouts
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.own_data import _last_change, open_task
from ipd_lite.tasks.registry import TASKS, get_task
from tests.test_minari import store_buffers


def pendulum_episodes(count: int = 4, steps: int = 12) -> list[Episode]:
    """Random swings of Pendulum-v1, actions in [-1, 1]."""
    env, generator = gym.make("Pendulum-v1"), np.random.default_rng(0)
    episodes = []
    for seed in range(count):
        observations, actions, rewards = [env.reset(seed=seed)[0]], [], []
        for _ in range(steps):
            action = generator.uniform(-1, 1, 1)
            observation, reward, *_ = env.step((2 * action).astype(np.float32))
            observations.append(observation)
            actions.append(action)
            rewards.append(float(reward))
        episodes.append(
            Episode(np.stack(observations), np.stack(actions), np.array(rewards), False)
        )
    return episodes


@pytest.fixture
def swings(datasets: Path) -> str:
    """Recorded with an environment, without reference scores."""
    data = from_episodes(pendulum_episodes(), "own/swings-v0")
    save_minari(data, "own/swings-v0", environment="Pendulum-v1")
    return "own/swings-v0"


def smoke(**changes: Any) -> Any:
    from ipd_lite.settings import override

    return override(preset("smoke"), {"values.fourier_features": 0, **changes})


def test_environment_and_measured_references(swings: str) -> None:
    task = open_task(dataset=swings)
    data = load_minari(swings)
    assert (task.name, task.environment, task.horizon) == ("own-swings-v0", "Pendulum-v1", 200)
    assert task.reference_max == pytest.approx(float(data.episode_returns.max()))
    # Random torque on a pendulum earns about -1200 in 200 steps (its reward is at least -16.3).
    assert -1700 < task.reference_min < -700
    assert "a random policy, 10 episodes" in task.score_definition
    assert "the best recorded episode" in task.score_definition
    assert open_task(dataset=swings).reference_min == task.reference_min


def test_references_of_the_metadata_come_first_and_survive(datasets: Path) -> None:
    data = from_episodes(pendulum_episodes(), "own/swings-v0")
    save_minari(data, "own/swings-v0", reference_scores=(-1500.0, -100.0))  # no environment
    task = open_task(dataset="own/swings-v0")
    assert (task.reference_min, task.reference_max) == (-1500, -100)
    assert task.normalized_score(-800) == 50
    assert task.score_definition.count("the dataset's own reference") == 2


def test_command_line_runs_an_id_and_a_path(
    swings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(local_path(swings).parent)
    for dataset in (swings, folder):
        out = tmp_path / str(len(dataset))
        arguments = ["run", "--dataset", dataset, "--method", "bc", "--preset", "smoke"]
        arguments += ["--horizon", "5", "--out", str(out), "--device", "cpu", "--quiet"]
        assert main(arguments) == 0
        assert "the best recorded episode" in capsys.readouterr().out
        run_folder = out / "own-swings-v0" / "bc" / "seed-0"
        episodes = pd.read_csv(run_folder / "episodes.csv")
        assert set(episodes["steps"]) == {5}
        config = json.loads((run_folder / "config.json").read_text())
        assert config["dataset"] == load_minari(dataset).fingerprint()
        again = evaluate_again(run_folder, 2, device="cpu")
        assert again["episodes"].tolist() == [2, 2]


def test_data_of_another_robot_is_refused_before_training(
    swings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--task", "hopper-medium", "--dataset", swings, "--out", str(tmp_path)]
    assert main([*arguments, "--quiet"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "ipd-lite: Hopper-v5 has observations of shape (11,), own/swings-v0 has (3,); do "
        "they belong together?\n"
    )
    with pytest.raises(DataError, match="Hopper-v5 has observations"):
        other_data([f"hopper-medium={swings}"])
    assert not list((tmp_path).glob("hopper*"))


def test_registered_task_with_other_data(swings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pendulum = replace(get_task("hopper-medium"), name="pendulum", environment="Pendulum-v1")
    monkeypatch.setitem(TASKS, "pendulum", pendulum)
    task = open_task("pendulum", swings)
    assert (task.environment, task.dataset, task.source) == ("Pendulum-v1", swings, swings)
    assert task.reference_max == get_task("hopper-medium").reference_max
    with pytest.raises(DataError, match="Hopper-v5 has observations"):
        open_task("hopper-medium", swings)
    assert open_task("hopper-medium") is get_task("hopper-medium")

    def missing(*_: Any, **__: Any) -> Any:
        raise gym.error.DependencyNotInstalled("no MuJoCo")

    monkeypatch.setattr(gym, "make", missing)
    blind = open_task("pendulum", swings)
    assert blind.environment == ""
    assert blind.no_environment == "Pendulum-v1 cannot be made: no MuJoCo"
    with pytest.raises(DataError, match="name a task or a dataset"):
        open_task()


# ---------------------------------------------------------------- no environment


def forget_environment(dataset: str, **changes: Any) -> None:
    file = local_path(dataset) / "metadata.json"
    metadata = json.loads(file.read_text())
    for key in ("env_spec", "eval_env_spec"):
        metadata.pop(key, None)
    file.write_text(json.dumps({**metadata, **changes}))


def unknown_environment(entry_point: str | None = "nowhere.to:Find") -> str:
    spec = gym.spec("Pendulum-v1").to_json()
    return json.dumps({**json.loads(spec), "id": "Lost-v0", "entry_point": entry_point})


def test_training_works_without_an_environment(swings: str, tmp_path: Path) -> None:
    forget_environment(swings)
    task = open_task(dataset=swings)
    assert "the worst recorded episode" in task.score_definition
    assert task.horizon == 12
    for method in ("iql", "ipd"):
        with pytest.warns(
            UserWarning, match=r"trained, but not evaluated: .* names no environment"
        ):
            scores = run(task, method, 0, smoke(), out=tmp_path, device="cpu")
        assert scores.empty
        folder = tmp_path / task.name / method / "seed-0"
        assert (folder / "policy.safetensors").exists()
        assert not (folder / "scores.csv").exists()
    # The data's own returns need no environment.
    scores = run(task, "behaviour", 0, smoke(), out=tmp_path, device="cpu")
    assert scores["return_mean"].iloc[0] == pytest.approx(
        float(load_minari(swings).episode_returns.mean()), rel=1e-5
    )


def test_environment_of_another_package_or_shape_is_explained(swings: str) -> None:
    forget_environment(swings, env_spec=unknown_environment())
    lost = open_task(dataset=swings)
    assert lost.environment == ""
    assert "cannot be made here" in lost.no_environment
    with pytest.raises(ValueError, match="own-swings-v0 cannot be evaluated: the environment of"):
        lost.make()
    forget_environment(swings, env_spec=gym.spec("MountainCarContinuous-v0").to_json())
    assert open_task(dataset=swings).no_environment == (
        "MountainCarContinuous-v0 has observations of shape (2,), own/swings-v0 has (3,); "
        "do they belong together?"
    )


class Odd(gym.Env[Any, Any]):
    """An environment that is at fault in one way, at once or (`late`) at the third step."""

    observation_space, action_space = Box(-1, 1, (2,)), Box(-1, 1, (1,))

    def __init__(self, fault: str = "", render_mode: str | None = None) -> None:
        assert render_mode is None, "a window"
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.time = 0
        if self.fault == "reset":
            raise RuntimeError("no licence")
        observation = np.zeros(2, np.float32)
        return observation if self.fault == "old reset" else (observation, {})

    def step(self, action: Any) -> Any:
        self.time += 1
        late = self.time == 3
        if self.fault == "late" and late:
            raise RuntimeError("contact solver")
        if self.fault == "exit" and late:
            raise SystemExit("no display")
        observation = np.full(2, np.nan if self.fault == "nan" and late else 0, np.float32)
        reward: Any = np.nan if self.fault == "reward" and late else 1.0
        reward = np.ones(2) if self.fault == "vector" else reward
        success = None if self.fault == "success" else late
        usual = observation, reward, False, self.time == 4, {"is_success": success}
        return (observation, reward, False, {}) if self.fault == "old step" else usual


gym.register("ipd_lite_tests/Odd-v0", entry_point=Odd, disable_env_checker=True)


def odd_dataset(**spec: Any) -> str:
    generator = np.random.default_rng(0)
    episodes = [
        Episode(generator.normal(size=(5, 2)), generator.uniform(-1, 1, (4, 1)), np.ones(4), False)
        for _ in range(4)
    ]
    name = "own/odd-v0"
    save_minari(from_episodes(episodes, name), name, reference_scores=(0, 4), replace_existing=True)
    text = json.loads(gym.spec("Pendulum-v1").to_json())
    text |= {"id": "Odd-v0", "entry_point": "tests.test_own_data:Odd", "max_episode_steps": 9}
    forget_environment(name, env_spec=json.dumps({**text, **spec}))
    return name


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("reset", "Odd-v0: reset.seed=0. fails: no licence"),
        ("old reset", "Odd-v0: reset.seed=0. fails: "),
        ("old step", "Odd-v0: step fails: not enough values to unpack"),
        ("vector", r"Odd-v0: step fails: the reward has shape \(2,\), expected \(1,\)"),
        ("late", "Odd-v0: step fails: contact solver"),
        ("exit", "Odd-v0: step fails: no display"),
        ("nan", "Odd-v0: step fails: the observation is not finite"),
        ("reward", "Odd-v0: step fails: the reward is not finite"),
    ],
)
def test_faults_of_the_environment_leave_a_trained_policy(
    fault: str, message: str, datasets: Path, tmp_path: Path
) -> None:
    task = open_task(dataset=odd_dataset(kwargs={"fault": fault}))
    message = message.replace("=0", "=12345")
    with pytest.warns(UserWarning, match=f"odd-v0: trained, but not evaluated: .*{message}"):
        assert run(task, "bc", 0, smoke(), out=tmp_path, device="cpu").empty
    assert (tmp_path / task.name / "bc" / "seed-0" / "policy.safetensors").exists()


def test_an_environment_that_does_not_answer_is_named_while_it_is_waited_for(
    datasets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = open_task(dataset=odd_dataset())
    monkeypatch.setattr(rollouts, "PATIENCE", 0.05)
    asked = threading.Event()

    def hangs(self: Odd, action: Any) -> Any:
        if not asked.is_set():
            asked.set()
            # Until the line is there, so that no clock decides.
            while "has not answered" not in (told := capsys.readouterr().err):
                time.sleep(0.01)
            assert "Odd-v0" in told and "the same command" in told
        return np.zeros(2, np.float32), 1.0, True, False, {}

    monkeypatch.setattr(Odd, "step", hangs)
    actor = FunctionActor(lambda observations: torch.zeros(len(observations), 1))
    config = EvaluationConfig(episodes=2, slots=1)
    assert rollouts.rollout(task, actor, config).returns.tolist() == [1.0, 1.0]
    assert asked.is_set()


@pytest.mark.parametrize(("fault", "rate"), [("", 1.0), ("success", np.nan)])
def test_success_by_its_other_name_or_unknown(
    fault: str, rate: float, datasets: Path, tmp_path: Path
) -> None:
    task = open_task(dataset=odd_dataset(kwargs={"fault": fault}))
    scores = run(task, "bc", 0, smoke(), out=tmp_path, device="cpu")
    np.testing.assert_equal(scores["success"].tolist(), [rate] * 2)
    assert scores["score"].tolist() == [100, 100]


def test_specifications_of_older_versions_and_windows(datasets: Path) -> None:
    """As Gymnasium 0.29 wrote them, recorded with a window and with films."""
    name = odd_dataset(
        autoreset=True,
        apply_api_compatibility=None,
        kwargs={"render_mode": "human"},
        additional_wrappers=[
            {
                "name": "HumanRendering",
                "entry_point": "gymnasium.wrappers:HumanRendering",
                "kwargs": {},
            },
        ],
    )
    task = open_task(dataset=name)
    assert (task.environment, task.horizon, task.no_environment) == ("Odd-v0", 9, "")
    assert load_minari(name).episodes == 4


def test_package_that_is_missing_is_named(datasets: Path) -> None:
    name = odd_dataset(entry_point="nowhere.to:Find")
    forget_environment(name, env_spec=unknown_environment(), requirements=["nowhere>=2"])
    assert open_task(dataset=name).no_environment == (
        "the environment of own/odd-v0 cannot be made here (No module named 'nowhere'); install "
        "nowhere>=2"
    )


# ---------------------------------------------------------------- paths and references


def test_copied_data_is_the_same_data(swings: str, datasets: Path, tmp_path: Path) -> None:
    """A finished run is read again after its data moved; other data is still refused."""
    out = tmp_path / "runs"
    first = run(open_task(dataset=swings), "bc", 0, smoke(), out=out, device="cpu")
    shutil.copytree(datasets / swings, tmp_path / "elsewhere")
    copied = open_task(dataset=str(tmp_path / "elsewhere"))
    pd.testing.assert_frame_equal(run(copied, "bc", 0, smoke(), out=out, device="cpu"), first)
    other = replace(load_minari(swings), rewards=2 * load_minari(swings).rewards)
    with pytest.raises(ValueError, match="other data"):
        run(copied, "bc", 0, smoke(), out=out, device="cpu", data=other)


def test_every_spelling_is_the_same_data(
    swings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = local_path(swings).parent
    (tmp_path / "a link").symlink_to(place)
    monkeypatch.chdir(place)
    spellings = [swings, str(place), ".", "../swings-v0", "data", str(tmp_path / "a link")]
    assert {str(open_task(dataset=s).opened["dataset"]) for s in spellings} == {swings}
    elsewhere = tmp_path / "данные мои" / "été-v0"
    shutil.copytree(place, elsewhere)
    monkeypatch.chdir(tmp_path)
    for spelling in (str(elsewhere), "данные мои/été-v0", "./данные мои/../данные мои/été-v0/data"):
        task = open_task(dataset=spelling)
        assert task.dataset == str(elsewhere)
        assert load_task(task).fingerprint() == load_minari(swings).fingerprint()


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("", "dataset = '': expected an id or a path"),
        ("own", "no metadata.json in it; did you mean own/swings-v0"),
        ("own/swings", "did you mean own/swings-v0"),
        ("own/swings-v1", "did you mean own/swings-v0"),
    ],
)
def test_near_misses_are_answered(
    dataset: str, message: str, swings: str, datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(datasets)
    for task in (None, "hopper-medium"):
        with pytest.raises(DataError, match=message):
            open_task(task, dataset)


@pytest.mark.parametrize("horizon", [0, -1])
def test_impossible_horizons_are_refused(horizon: int) -> None:
    with pytest.raises(ValueError, match=f"horizon = {horizon}: expected .* at least 1"):
        open_task("pointmaze-umaze", horizon=horizon)


def test_random_policy_is_measured_once_and_said(
    swings: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tasks = [open_task(dataset=swings) for _ in range(2)]
    assert tasks[0].reference_min == tasks[1].reference_min
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("own-swings-v0: measuring a random policy, 10 episodes of Pendulum-v1")
    (kept,) = (tmp_path / "ipd-lite").iterdir()
    assert f"(once; it becomes score 0 and is kept in {kept})" in said
    assert "the best recorded episode, of 12 steps; evaluations last up to 200" in (
        tasks[0].score_definition
    )


def test_bounds_of_the_environment_rule(datasets: Path, tmp_path: Path) -> None:
    """Recorded in bounds of [-8, 8], or none: a torque of 0.5 is one of 0.5 in the environment."""
    space = Box(-np.inf, np.inf, (3,))
    torques = np.linspace(-2, 2, 12, dtype=np.float32)[:, None]
    for bound in (8.0, np.inf):
        buffer = EpisodeBuffer(
            observations=np.zeros((13, 3), np.float32),
            actions=torques,
            rewards=[0.0] * 12,
            terminations=[False] * 12,
            truncations=[False] * 11 + [True],
        )
        name = f"test/torque-v{1 if bound == 8 else 2}"
        store_buffers([buffer], space, Box(-bound, bound, (1,)), name)
        forget_environment(name, env_spec=gym.spec("Pendulum-v1").to_json())
        task = open_task(dataset=name)
        env: Any = task.make()
        env.reset(seed=0)
        for unit, torque in zip(load_task(task).actions.numpy(), torques, strict=True):
            env.step(unit)
            assert env.unwrapped.last_u == pytest.approx(float(torque[0]), abs=1e-6)


# ---------------------------------------------------------------- Dicts, refusals, odd episodes


def test_dict_observations_are_flattened_for_training_and_evaluation(datasets: Path) -> None:
    space = Dict({"b": Box(-1, 1, (2,)), "a": Box(-1, 1, (1,))})
    buffers = [
        EpisodeBuffer(
            observations={"b": np.ones((3, 2), np.float32), "a": np.zeros((3, 1), np.float32)},
            actions=np.zeros((2, 1), np.float32),
            rewards=[0.0, float(i)],
            terminations=[False, True],
            truncations=[False, False],
        )
        for i in range(3)
    ]
    store_buffers(buffers, space, Box(-1, 1, (1,)))
    assert load_minari("test/other-v0").observations.tolist() == [[0, 1, 1]] * 6


def test_dict_with_an_image_is_refused_by_name(datasets: Path) -> None:
    space = Dict({"camera": Box(0, 255, (4, 4, 3), np.uint8), "joint": Box(-1, 1, (1,))})
    buffer = EpisodeBuffer(
        observations={
            "camera": np.zeros((3, 4, 4, 3), np.uint8),
            "joint": np.zeros((3, 1), np.float32),
        },
        actions=np.zeros((2, 1), np.float32),
        rewards=[0.0, 1.0],
        terminations=[False, True],
        truncations=[False, False],
    )
    store_buffers([buffer], space, Box(-1, 1, (1,)))
    with pytest.raises(DataError, match="test/other-v0: observation space, 'camera' is Box"):
        load_minari("test/other-v0")


def test_end_in_the_middle_of_an_episode_is_located(swings: str) -> None:
    with h5py.File(local_path(swings) / "main_data.hdf5", "a") as file:
        file["episode_2"]["terminations"][3] = True
    with pytest.raises(DataError, match="own/swings-v0, episode 2: terminations is set at step 3"):
        load_minari(swings)


@pytest.mark.parametrize(
    ("field", "cut", "message"),
    [
        ("observations", lambda a: a[:, :2], "(13, 2), expected (13, 3)"),
        ("observations", lambda a: a[:-1], "(12, 3), expected (13, 3)"),
        ("actions", lambda a: np.repeat(a, 2, 1), "(12, 2), expected (12, 1)"),
        ("actions", lambda a: a[:, 0], "(12,), expected (12, 1)"),
        ("rewards", lambda a: a[:-1], "(11,), expected (12,)"),
        ("terminations", lambda a: a[:-1], "(11,), expected (12,)"),
    ],
)
def test_shape_that_changes_between_episodes_is_located(
    field: str, cut: Callable[[Any], Any], message: str, swings: str
) -> None:
    with h5py.File(local_path(swings) / "main_data.hdf5", "a") as file:
        array = cut(file["episode_1"][field][:])
        del file["episode_1"][field]
        file["episode_1"][field] = array
    with pytest.raises(DataError) as caught:
        load_minari(swings)
    assert str(caught.value) == f"own/swings-v0, episode 1: {field} has shape {message}"


@pytest.mark.parametrize(("field", "kind"), [("observations", "float64"), ("actions", "float64")])
def test_type_that_changes_between_episodes_is_located(
    field: str, kind: str, swings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def convert(episodes: list[str]) -> None:
        with h5py.File(local_path(swings) / "main_data.hdf5", "a") as file:
            for name in episodes:
                array = file[name][field][:].astype(kind)
                del file[name][field]
                file[name][field] = array

    convert(["episode_2"])
    out = ["--out", str(tmp_path), "--preset", "smoke", "--quiet"]
    assert main(["run", "--dataset", swings, *out]) == 1
    assert capsys.readouterr().err == (
        f"ipd-lite: own/swings-v0, episode 2: {field} has type {kind}, earlier episodes have "
        "float32; write all episodes with one type\n"
    )
    convert(["episode_0", "episode_1", "episode_3"])  # now all have the same
    assert load_minari(swings).episodes == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: {**o, "b": o["b"].astype(np.float64)}, r"\['b'\] has type float64, earlier"),
        (lambda o: {**o, "b": o["b"][:, :1]}, r"\['b'\] has shape \(3, 1\), expected \(3, 2\)"),
        (lambda o: {"a": o["a"]}, r"\['b'\] is missing"),
    ],
)
def test_part_of_a_dict_that_changes_is_named(
    change: Callable[[Any], Any], message: str, datasets: Path
) -> None:
    space = Dict({"b": Box(-1, 1, (2,)), "a": Box(-1, 1, (1,))})
    usual = {"b": np.ones((3, 2), np.float32), "a": np.zeros((3, 1), np.float32)}
    buffers = [
        EpisodeBuffer(
            observations=observations,
            actions=np.zeros((2, 1), np.float32),
            rewards=[0.0, 1.0],
            terminations=[False, True],
            truncations=[False, False],
        )
        for observations in (usual, change(usual))
    ]
    store_buffers(buffers, space, Box(-1, 1, (1,)))
    with pytest.raises(DataError, match="test/other-v0, episode 1: observations" + message):
        load_minari("test/other-v0")


def test_damaged_episode_is_named(swings: str) -> None:
    with h5py.File(local_path(swings) / "main_data.hdf5", "a") as file:
        place = file["episode_2"]["observations"].id.get_chunk_info(0)
    path = local_path(swings) / "main_data.hdf5"
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    path.write_bytes(content)
    with pytest.raises(DataError, match="own/swings-v0, episode 2: cannot be read"):
        load_minari(swings)


@pytest.mark.parametrize("task", [None, "hopper-medium"])
def test_what_is_no_dataset_is_explained(task: str | None, datasets: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "log.hdf5", tmp_path / "folder"
    file.write_text("")
    folder.mkdir()
    for dataset, message in (
        (str(file), "is a file, expected the id or the folder of a Minari dataset"),
        (str(folder), "folder: cannot be read as"),
        (str(tmp_path / "nowhere"), "is not on this machine .*; check the path"),
        ("own/nowhere-v0", "from another folder.* `minari download own/nowhere-v0`"),
        ("D4RL/door/human-v2", "> 3.7 MB.*`ipd-lite download door-human`"),
        ("door-human", "is a task, not a dataset: use `--task door-human`"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            open_task(task, dataset)
        assert "\n" not in str(caught.value)
    for content in ("[]", "{"):
        (folder / "metadata.json").write_text(content)
        with pytest.raises(DataError, match="folder: cannot be read as"):
            open_task(task, str(folder))


@pytest.mark.parametrize(("steps", "terminated"), [(1, True), (6, False)])
def test_extreme_episodes_train_every_stage(steps: int, terminated: bool, tmp_path: Path) -> None:
    """Episodes of one step; data that is all terminated, or all truncated."""
    generator = np.random.default_rng(0)
    data = from_episodes(
        [
            Episode(
                generator.normal(size=(steps + 1, 3)),
                generator.uniform(-1, 1, (steps, 1)),
                generator.normal(size=steps),
                terminated,
            )
            for _ in range(40)
        ],
        "extreme",
    )
    task = get_task("hopper-medium")
    config = smoke(**{"imagination.min_length": 1})
    pipeline = Pipeline(task, 0, config, tmp_path, torch.device("cpu"), data=data)
    policy, _ = pipeline.policy
    assert all(parameter.isfinite().all() for parameter in policy.parameters())


def test_coinciding_references_leave_plain_returns(datasets: Path) -> None:
    episodes = [Episode(np.zeros((3, 1)), np.zeros((2, 1)), np.ones(2), True) for _ in range(3)]
    save_minari(from_episodes(episodes, "own/same-v0"), "own/same-v0")
    task = open_task(dataset="own/same-v0")
    assert task.normalized_score(2.0) == 2.0
    assert task.score_definition.startswith(
        "the plain return: the best recorded episode (2) is not"
    )


@pytest.mark.parametrize("name", ["smoke", "lesson", "gpu", "paper"])
def test_command_line_and_task_agree_on_the_settings(swings: str, name: str) -> None:
    """The command line needs them before it has opened the data."""
    options = ["--preset", name, "--dataset", swings]
    assert _default_config("run", options) == open_task(dataset=swings).config(name)


def test_the_random_policy_is_measured_again_after_the_environment_s_code_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "changing_env.py"
    module.write_text("class Env: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = EnvSpec("Changing-v0", entry_point="changing_env:Env")
    before = _last_change(spec)
    os.utime(module, (1, 1))
    assert before != _last_change(spec) > 0
    assert _last_change(None) == 0
    assert _last_change(EnvSpec("Gone-v0", entry_point="no_such_module:Env")) == 0
