"""The stages together: shared, repeatable, and killed anywhere without a trace in the numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from ipd_lite.data.minari_files import load_minari, save_minari
from ipd_lite.files import load_tensors
from ipd_lite.paper import algorithm
from ipd_lite.paper.algorithm import IPD
from ipd_lite.paper.training import Checkpoint
from ipd_lite.settings import Config, as_dict, override
from ipd_lite.study import actors, methods
from ipd_lite.study import run as experiments
from ipd_lite.study import storage as runs
from ipd_lite.study.methods import METHODS
from ipd_lite.study.names import read_scores
from ipd_lite.study.pipeline import Pipeline, choose_device
from ipd_lite.study.run import evaluate_again, run
from ipd_lite.study.storage import Stage
from ipd_lite.tasks.own_data import open_task
from ipd_lite.tasks.registry import get_task
from tests.helpers import Killed
from tests.recorded import TASK, smoke, umaze_data

COLUMNS = [
    "task",
    "method",
    "variant",
    "seed",
    "checkpoint",
    "episodes",
    "return_mean",
    "score",
    "success",
    "wall_seconds",
]


@pytest.fixture(autouse=True, scope="module")
def recorded() -> None:
    umaze_data()


@dataclass
class Finished:
    """A run that nothing interrupted."""

    root: Path
    scores: pd.DataFrame


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("uninterrupted")
    return Finished(root, run_method(root))


def run_method(
    root: Path, method: str = "ipd", seed: int = 0, config: Config | None = None
) -> pd.DataFrame:
    return run(TASK, method, seed, config or smoke(), out=root, device="cpu")


def acting(root: Path, method: str = "ipd") -> dict[str, list[float]]:
    """The weights that act, as the run keeps them."""
    tensors, _ = load_tensors(root / TASK / method / "seed-0" / "policy.safetensors")
    return {name: tensor.flatten().tolist() for name, tensor in tensors.items()}


def results(root: Path, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Tensors of every finished stage by the name of its folder."""
    stages = (root / TASK / "stages" / f"seed-{seed}").glob("*/result.safetensors")
    return {path.parent.name: load_tensors(path)[0] for path in stages}


def assert_same_results(first: Path, second: Path) -> None:
    one, other = results(first), results(second)
    assert one.keys() == other.keys()
    for stage in one:
        assert one[stage].keys() == other[stage].keys()
        for name, tensor in one[stage].items():
            assert torch.equal(tensor, other[stage][name]), f"{stage}: {name}"


def assert_same_scores(first: pd.DataFrame, second: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        first.drop(columns="wall_seconds"), second.drop(columns="wall_seconds")
    )


def episodes(root: Path, method: str = "ipd") -> bytes:
    return (root / TASK / method / "seed-0" / "episodes.csv").read_bytes()


# -- killed and started again ---------------------------------------------------------------------


class FrequentCheckpoint(Checkpoint):
    """Saves every seven updates; the process dies right after the second save of `victim`."""

    victim = ""
    saves = 0

    def __init__(self, path: Path | None, progress: bool = False) -> None:
        super().__init__(path, every=7, log_every=1, progress=progress)

    def _save(self, *args: Any) -> None:
        super()._save(*args)
        if self.stage == type(self).victim:
            type(self).saves += 1
            if type(self).saves == 2:
                raise Killed


def die_inside(victim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrequentCheckpoint, "victim", victim)
    monkeypatch.setattr(FrequentCheckpoint, "saves", 0)
    monkeypatch.setattr(runs, "Checkpoint", FrequentCheckpoint)


def die_after(victim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Stage.store

    def store_and_die(self: Stage, *args: Any) -> None:
        store(self, *args)
        if self.name == victim:
            raise Killed

    monkeypatch.setattr(Stage, "store", store_and_die)


def die_before(victim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any, **kwargs: Any) -> None:
        raise Killed

    module = experiments if hasattr(experiments, victim) else algorithm
    monkeypatch.setattr(module, victim, killed)


Death = Callable[[pytest.MonkeyPatch], None]
DEATHS: dict[str, Death] = {
    **{f"inside {s}": partial(die_inside, s) for s in ("values", "world model", "policy")},
    **{
        f"after {s}": partial(die_after, s)
        for s in ("values", "world-model", "imagination", "policy")
    },
    **{f"before {f}": partial(die_before, f) for f in ("accept", "rollout", "write_csv")},
}


@pytest.mark.parametrize("death", DEATHS)
def test_killed_run_ends_in_the_same_numbers(
    death: str, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        DEATHS[death](patched)
        with pytest.raises(Killed):
            run_method(tmp_path)
    assert not (tmp_path / TASK / "ipd" / "seed-0" / "scores.csv").exists()
    assert death.startswith("inside") == bool(list(tmp_path.rglob("partial.safetensors")))
    scores = run_method(tmp_path)
    assert_same_scores(scores, finished.scores)
    assert_same_results(tmp_path, finished.root)
    assert episodes(tmp_path) == episodes(finished.root)
    assert acting(tmp_path) == acting(finished.root)
    assert not list(tmp_path.rglob("*partial*"))


def test_process_killed_in_training_continues(tmp_path: Path) -> None:
    """A real process, killed by a real signal, against an uninterrupted run in this process."""
    changes = {"values.updates": 600, "values.batch_size": 8, "evaluation.episodes": 1}
    often = (
        "import sys; from ipd_lite import cli; from ipd_lite.study import storage; "
        "storage.Checkpoint.__init__.__defaults__ = (100, 100, False); sys.exit(cli.main())"
    )
    arguments = [
        "run",
        "--task",
        TASK,
        "--method",
        "bc",
        "--preset",
        "smoke",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--quiet",
        "--out",
        str(tmp_path / "killed"),
        *(text for name, value in changes.items() for text in (f"--{name}", str(value))),
    ]
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    process = subprocess.Popen([sys.executable, "-c", often, *arguments], **quiet)
    try:
        deadline = time.monotonic() + 600
        while not (partial_files := list(tmp_path.rglob("partial.safetensors"))):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 100 <= load_tensors(partial_files[0])[1]["step"] < 600
    assert not results(tmp_path / "killed")
    subprocess.run([sys.executable, "-m", "ipd_lite.cli", *arguments], check=True, **quiet)
    scores = run_method(tmp_path / "whole", "bc", config=override(smoke(), changes))
    assert_same_results(tmp_path / "killed", tmp_path / "whole")
    found = read_scores(tmp_path / "killed" / TASK / "bc" / "seed-0" / "scores.csv")
    assert_same_scores(found, scores)


# -- the same numbers, and only once --------------------------------------------------------------


def test_same_seed_same_numbers_another_seed_others(finished: Finished, tmp_path: Path) -> None:
    assert_same_scores(run_method(tmp_path), finished.scores)
    assert_same_results(tmp_path, finished.root)
    run_method(tmp_path, seed=1)
    values = [
        next(tensors for stage, tensors in results(tmp_path, seed).items() if "values" in stage)
        for seed in (0, 1)
    ]
    name = "0:v_net.head.weight"
    assert not torch.equal(values[0][name], values[1][name])


def test_methods_share_their_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[str] = []
    store = Stage.store

    def count(self: Stage, *args: Any) -> None:
        stored.append(self.name)
        store(self, *args)

    monkeypatch.setattr(Stage, "store", count)
    quick = override(
        smoke(),
        {"values.updates": 10, "distillation.updates": 10, "evaluation.episodes": 1},
    )
    for method in METHODS:
        run_method(tmp_path, method, config=quick)
    times = {name: stored.count(name) for name in set(stored)}
    # Imagined by MPC (also with other amounts), greedy Q, at random and without the gate; every
    # transformer is trained for itself, but for what only asks otherwise, and, where no support
    # gate is configured, for what does without it.
    transformers = [m for m in METHODS.values() if m.acts == "transformer"]
    amounts = {m.amount for m in transformers}
    expected = {
        "values": 1,
        "world-model": 1,
        "imagination": 3 + len(amounts),
        "td3bc": 1,
        "cql": 1,
        "rebrac": 1,
        "policy": len(transformers) - 2,
        "cloning": 2,
    }
    assert times == expected
    run_method(tmp_path, seed=1, config=quick)
    assert len(stored) == sum(expected.values()) + 4


def test_finished_run_is_read_not_repeated(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    for function in ("rollout", "train_values", "train_policy"):
        die_before(function, monkeypatch)
    pd.testing.assert_frame_equal(run_method(finished.root), finished.scores)


@pytest.mark.parametrize(
    "change",
    [
        {"values.expectile": 0.6},
        {"values.discount": 0.95},
        {"imagination.bootstrap_steps": 2},
        {"imagination.quantile": 0.5},
        {"world_model.divergence": "primal"},
        {"planner.first_noise": 0.1},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("condition", ["maximum", "return-to-go"])
def test_policy_is_trained_anew_when_what_it_rests_on_changes(
    change: dict[str, Any], condition: str, tmp_path: Path
) -> None:
    """Also where only the imagined data, not the loss, depends on the values."""
    base = override(
        smoke(),
        {
            "distillation.condition": condition,
            "distillation.alpha": 0.0,
            "values.updates": 2,
            "world_model.updates": 2,
            "imagination.starts": 5,
            "distillation.updates": 2,
        },
    )
    folders = []
    for config in (base, override(base, change)):
        pipeline = make_pipeline(tmp_path, config)
        _ = pipeline.policy
        folders.append(pipeline.stages["policy"].folder)
    assert folders[0] != folders[1]


def make_pipeline(root: Path, config: Config | None = None) -> Pipeline:
    return Pipeline(get_task(TASK), 0, config or smoke(), root, torch.device("cpu"))


def test_another_configuration_in_the_same_folder_is_an_error(finished: Finished) -> None:
    other = override(smoke(), {"values.expectile": 0.8})
    with pytest.raises(ValueError, match=r"another configuration.*choose another --out"):
        run_method(finished.root, config=other)
    shorter = umaze_data().select_episodes(torch.arange(10))
    with pytest.raises(ValueError, match="other data"):
        run(TASK, "ipd", 0, smoke(), out=finished.root, device="cpu", data=shorter)


def test_a_run_with_another_time_limit_is_another_run(tmp_path: Path) -> None:
    umaze_data()
    short = run(open_task(TASK, horizon=10), "bc", 0, smoke(), out=tmp_path, device="cpu")
    assert (short["return_mean"] >= -10).all()
    with pytest.raises(ValueError, match=r"another configuration.*choose another --out"):
        run(open_task(TASK), "bc", 0, smoke(), out=tmp_path, device="cpu")
    again = run(open_task(TASK, horizon=10), "bc", 0, smoke(), out=tmp_path, device="cpu")
    assert again["score"].tolist() == short["score"].tolist()


def test_scores_follow_the_references_of_today(tmp_path: Path) -> None:
    umaze_data()
    task = get_task(TASK)
    before = run(task, "bc", 0, smoke(), out=tmp_path, device="cpu")
    other = replace(task, reference_min=task.reference_min - 10)
    with pytest.warns(UserWarning, match="its scores are now on the present scale"):
        after = run(other, "bc", 0, smoke(), out=tmp_path, device="cpu")
    expected = other.normalized_score(before["return_mean"])
    np.testing.assert_allclose(after["score"], expected, atol=2e-3)
    again = run(other, "bc", 0, smoke(), out=tmp_path, device="cpu")
    assert again["score"].tolist() == after["score"].tolist(), "once"


@pytest.mark.parametrize("name", ["gpu", "", "mps", "cuda:x"])
def test_devices_that_are_none_of_ours(name: str) -> None:
    with pytest.raises(ValueError, match=f"device = '{name}': expected auto, cpu, cuda or cuda:N"):
        choose_device(name)


# -- what a run leaves behind -------------------------------------------------------------------


def test_scores_follow_from_the_episodes(finished: Finished) -> None:
    folder = finished.root / TASK / "ipd" / "seed-0"
    scores = pd.read_csv(folder / "scores.csv")
    assert list(scores.columns) == COLUMNS
    assert scores["checkpoint"].tolist() == ["last", "best"]
    table = pd.read_csv(folder / "episodes.csv")
    assert len(table) == smoke().distillation.evaluations * smoke().evaluation.episodes
    means = table.groupby("checkpoint")["return"].mean()
    last, best = scores.iloc[0], scores.iloc[1]
    assert last["return_mean"] == pytest.approx(means.iloc[-1], abs=1e-3)
    assert best["return_mean"] == pytest.approx(means.max(), abs=1e-3)
    assert best["score"] >= last["score"]
    chosen = table[table["checkpoint"] == means.index[-1]]
    assert last["success"] == chosen["success"].mean()
    assert last["episodes"] == len(chosen)
    task = get_task(TASK)
    span = task.reference_max - task.reference_min
    for _, row in scores.iterrows():
        expected = 100 * (row["return_mean"] - task.reference_min) / span
        assert row["score"] == pytest.approx(expected, abs=1e-3)


def test_record_and_log_cover_every_stage(finished: Finished) -> None:
    folder = finished.root / TASK / "ipd" / "seed-0"
    record = json.loads((folder / "record.json").read_text())
    assert set(record["seconds"]) == {
        "values",
        "world-model",
        "imagination",
        "policy",
        "evaluation",
    }
    assert all(seconds > 0 for seconds in record["seconds"].values())
    wall = finished.scores["wall_seconds"].iloc[0]
    assert wall == pytest.approx(sum(record["seconds"].values()), abs=0.051)
    book = record["imagination"]
    assert book["starts"] == smoke().imagination.starts
    assert set(pd.read_csv(folder / "log.csv")["stage"]) == {"values", "world-model", "policy"}
    policy = load_tensors(folder / "policy.safetensors")[0]
    stage = next(t for name, t in results(finished.root).items() if name.startswith("policy-"))
    assert policy.keys() == stage.keys()
    identity = json.loads((folder / "config.json").read_text())
    assert identity["method"] == "ipd" and identity["config"]["preset"] == "smoke"


def test_ablations_differ_in_what_their_name_says(tmp_path: Path) -> None:
    for method, name, value, stages in [
        ("dt", "condition", "return-to-go", {"policy"}),
        ("ipd-noaug", "imagined_share", 0.0, {"policy", "values"}),
        ("ipd-noq", "alpha", 0.0, {"policy", "values", "world", "imagination"}),
        ("qt", "condition", "return-to-go", {"policy", "values"}),
        ("ipd-rtg", "condition", "return-to-go", {"policy", "values", "world", "imagination"}),
    ]:
        root = tmp_path / method
        run_method(root, method)
        config = json.loads((root / TASK / method / "seed-0" / "config.json").read_text())
        assert config["config"]["distillation"][name] == value
        assert {stage.split("-")[0] for stage in results(root)} == stages


def test_evaluate_again_trains_and_overwrites_nothing(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished.root / TASK / "ipd" / "seed-0"
    before = {p: p.read_bytes() for p in finished.root.rglob("*") if p.is_file()}
    for function in ("train_values", "train_world_model", "imagine", "train_policy"):
        die_before(function, monkeypatch)
    same = evaluate_again(folder, smoke().evaluation.episodes, device="cpu")
    assert_same_scores(same, finished.scores)
    more = evaluate_again(folder, 6, device="cpu")
    assert list(more.columns) == COLUMNS and more["episodes"].tolist() == [6, 6]
    assert {p: p.read_bytes() for p in finished.root.rglob("*") if p.is_file()} == before
    with pytest.raises(FileNotFoundError, match="no finished run"):
        evaluate_again(folder.parent, 6)


def test_augmented_data_survives_as_a_minari_dataset(finished: Finished, datasets: Path) -> None:
    pipeline = make_pipeline(finished.root)
    pipeline.data = umaze_data()
    augmented = pipeline.augmented
    assert 0 < int(augmented.imagined.sum()) < len(augmented)
    save_minari(augmented, "test/augmented-v0", environment=get_task(TASK).environment)
    found = load_minari("test/augmented-v0")
    assert torch.equal(found.imagined, augmented.imagined)
    assert found.fingerprint() == augmented.fingerprint()


@torch.no_grad()
def test_stages_can_be_asked_for_without_gradients(tmp_path: Path) -> None:
    quick = override(smoke(), {"values.updates": 4})
    for made in (make_pipeline(tmp_path, quick), IPD(umaze_data(), quick)):
        assert made.values.v(umaze_data().observations[:2]).shape == (2,)


def test_imagined_share_of_zero_leaves_the_data_alone(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, override(smoke(), {"distillation.imagined_share": 0.0}))
    assert pipeline.augmented is pipeline.dataset
    assert not results(tmp_path)


def test_best_return_is_the_target_unless_one_is_set(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path)
    best = max(
        float(umaze_data().rewards[s : s + n].sum())
        for s, n in zip(umaze_data().starts, umaze_data().lengths, strict=True)
    )
    assert actors.target_return(pipeline) == best
    config = replace(smoke(), evaluation=replace(smoke().evaluation, target=-3.5))
    assert actors.target_return(make_pipeline(tmp_path, config)) == -3.5


@pytest.mark.parametrize("level", [0.0, 0.25, 1.5])
def test_target_level_lies_between_worst_and_best(level: float, tmp_path: Path) -> None:
    config = override(smoke(), {"evaluation.target_level": level})
    returns = umaze_data().episode_returns.numpy()
    expected = (1 - level) * returns.min() + level * returns.max()
    found = actors.target_return(make_pipeline(tmp_path, config))
    assert found == pytest.approx(expected)


OURS = {"imagination.support_quantile": 0.5, "evaluation.ask": "quantile"}
"""Our additions, which are off by default: methods without one of them switch it off."""


@pytest.mark.parametrize("method", METHODS)
def test_methods_name_their_source_and_differ_only_where_they_must(method: str) -> None:
    """The transformers differ from IPD in the named fields alone; deviations are told."""
    found, everything = METHODS[method], override(smoke(), OURS)
    base = as_dict(everything)
    assert found.source and found.description
    assert found.deviations or found.source == methods.IPD_PAPER
    configured = as_dict(experiments.configured(everything, method))
    changed = {
        f"{stage}.{name}"
        for stage, fields in configured.items()
        if isinstance(fields, dict)
        for name, value in fields.items()
        if value != base[stage][name]
    }
    expected = set(found.overrides)
    if found.amount != 1:
        expected |= {"imagination.starts", "distillation.imagined_share"}
    assert changed == expected


@pytest.mark.parametrize("amount", [0.125, 4.0])
def test_another_amount_keeps_the_weight_of_every_imagined_window(amount: float) -> None:
    """Draws per imagined continuation and per real window are in the same ratio as by default."""
    found, base = experiments.configured(Config(), f"ipd-x{amount:g}"), Config()

    def ratio(config: Config) -> float:
        share = config.distillation.imagined_share
        return share / (1 - share) / config.imagination.starts

    assert found.imagination.starts == amount * base.imagination.starts
    assert ratio(found) == pytest.approx(ratio(base))


def test_without_a_gate_no_continuation_is_stopped(tmp_path: Path) -> None:
    config = experiments.configured(smoke(), "ipd-nogate")
    pipeline = make_pipeline(tmp_path, config)
    assert float(pipeline.threshold) == torch.inf
    book = pipeline.bookkeeping
    assert book["stopped_by_gate"] == 0 and book["threshold"] is None
    assert book["accepted"] == book["starts"]
    full = pipeline.continuations.length == config.imagination.length
    assert (full | pipeline.continuations.terminated.any(1)).all()


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("nonsense", {}, "`ipd-lite methods` lists all"),
        ("ipd", {"planner.candidates": 7}, "expected a multiple of world_model.elites"),
    ],
)
def test_impossible_runs_are_refused_before_training(
    method: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((KeyError, ValueError), match=message):
        run_method(tmp_path, method, config=override(smoke(), change))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_absent_device_is_an_error() -> None:
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="use --device cpu"):
        choose_device("cuda:1")


def test_scores_of_unsuccessful_silence_are_unknown() -> None:
    """Environments that do not report success leave NaN, not zero."""
    rollouts = experiments.Rollouts(np.array([1.0, 2.0]), np.array([3, 3]), np.full(2, np.nan))
    identity = {"task": "t", "method": "m", "variant": "", "seed": 0}
    rows = experiments._score_rows(identity, get_task(TASK), [rollouts], 1.0)
    assert rows["success"].isna().all()


def test_scores_of_another_run_are_not_taken_for_this_one_s(tmp_path: Path) -> None:
    umaze_data()
    for method in ("bc", "behaviour"):
        run(TASK, method, 0, smoke(), out=tmp_path, device="cpu")
    folders = [tmp_path / TASK / method / "seed-0" for method in ("bc", "behaviour")]
    (folders[1] / "scores.csv").write_bytes((folders[0] / "scores.csv").read_bytes())
    with pytest.raises(ValueError, match=r"its method is not that of config\.json"):
        run(TASK, "behaviour", 0, smoke(), out=tmp_path, device="cpu")
