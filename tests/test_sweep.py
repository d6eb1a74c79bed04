"""Sweeps: every unit once, failures that stop nothing, and the same numbers on a Dask cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from joblib import parallel_config

from ipd_lite.cli import main
from ipd_lite.data.minari_files import local_path, save_minari
from ipd_lite.files import load_tensors
from ipd_lite.paper.dataset import DataError
from ipd_lite.report import gather
from ipd_lite.report.redraw import read_catalogue
from ipd_lite.report.tables import explain
from ipd_lite.settings import Config, override
from ipd_lite.study import spec as specs
from ipd_lite.study import sweep
from ipd_lite.study.run import evaluate_again, run
from ipd_lite.study.spec import Block, Spec, Unit, expand, read_spec
from ipd_lite.study.storage import Stage, exclusive
from ipd_lite.study.sweep import interleave, run_units, status
from ipd_lite.tasks.own_data import open_task
from tests.recorded import TASK, smoke, umaze_data

QUICK = {"values.updates": 8, "values.evaluations": 1, "evaluation.episodes": 2}


@pytest.fixture(autouse=True, scope="module")
def recorded() -> None:
    umaze_data()


def spec(methods: tuple[str, ...] = ("bc", "iql"), seeds: tuple[int, ...] = (0, 1)) -> Spec:
    return Spec((Block((TASK,), methods, seeds, "quick", QUICK),), "smoke")


def scores(out: Path) -> dict[str, pd.DataFrame]:
    """Scores of every run, without the clock."""
    return {
        str(file.relative_to(out).parent): pd.read_csv(file).drop(columns="wall_seconds")
        for file in sorted(out.rglob("scores.csv"))
    }


def assert_same(first: dict[str, pd.DataFrame], second: dict[str, pd.DataFrame]) -> None:
    assert first.keys() == second.keys() and first
    for name, table in first.items():
        pd.testing.assert_frame_equal(table, second[name])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep in this very process."""
    out = tmp_path_factory.mktemp("local")
    assert run_units(expand(spec()), out=out, threads=1, device="cpu") == []
    return out


# -- specs -----------------------------------------------------------------------------------------

TEXT = """
preset = "smoke"

[[runs]]
tasks = ["pointmaze-umaze"]
methods = ["bc", "ipd"]
seeds = [0, 1]

[[runs]]
tasks = ["pointmaze-umaze", "pointmaze-medium"]
methods = ["ipd-rtg"]
seeds = [0]
vary = {"evaluation.target_level" = [0.0, 0.5], "distillation.context" = [2]}

[[runs]]
tasks = ["pointmaze-umaze"]
methods = ["ipd"]
seeds = [0, 2]
variant = "short"
overrides = {"imagination.length" = 3}
"""


def write_spec(folder: Path, text: str = TEXT) -> Path:
    path = folder / "spec.toml"
    path.write_text(text)
    return path


def test_units_of_a_spec(tmp_path: Path) -> None:
    units = expand(read_spec(write_spec(tmp_path)))
    assert Counter((u.task, u.label, u.seed) for u in units) == Counter(
        [
            *((TASK, method, seed) for method in ("bc", "ipd") for seed in (0, 1)),
            *(
                (task, f"ipd-rtg@target_level={level},context=2", 0)
                for task in (TASK, "pointmaze-medium")
                for level in (0.0, 0.5)
            ),
            (TASK, "ipd@short", 0),
            (TASK, "ipd@short", 2),
        ]
    )
    assert [u.seed for u in units] == sorted(u.seed for u in units)
    by_label = {u.label: u.configured() for u in units}
    assert by_label["ipd@short"] == override(by_label["ipd"], {"imagination.length": 3})
    level = by_label["ipd-rtg@target_level=0.5,context=2"]
    assert (level.evaluation.target_level, level.distillation.context) == (0.5, 2)


def test_slices_and_repetitions(tmp_path: Path) -> None:
    found = read_spec(write_spec(tmp_path))
    part = expand(found, tasks=[TASK], methods=["ipd"], seeds=[2, 1])
    assert [(u.label, u.seed) for u in part] == [("ipd", 1), ("ipd@short", 2)]
    twice = expand(Spec(found.runs * 2, "smoke"))
    assert len(twice) == len(expand(found))
    with pytest.raises(ValueError, match=r"no unit .* in this slice"):
        expand(found, seeds=[9])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset = 3 4", "not valid TOML"),
        ('preset = "smoke"', "runs is missing or empty"),
        ("runs = 3", "runs = 3, expected a list"),
        (TEXT.replace("seeds = [0]", "seeds = 0"), "number 2: seeds = 0, expected a list"),
        (TEXT.replace("seeds = [0]", 'seeds = ["0"]'), "number 2: seeds has '0', expected int"),
        (TEXT.replace("[0.0, 0.5]", "0.5"), "vary: evaluation.target_level = 0.5, expected a list"),
        (TEXT.replace('"short"', '"lr/high"'), "'ipd@lr/high' cannot name a folder"),
        (TEXT.replace("= 3}", '= "3"}'), "imagination.length = '3': expected a whole number"),
        (TEXT.replace("seeds = [0, 2]", "seeds = [-1]"), "seed = -1: expected a whole number"),
        (
            TEXT.replace("ipd-rtg", "dt").replace("distillation.context", "distillation.alpha"),
            "distillation.alpha = 2: method dt is defined by",
        ),
        ('preset = "big"\n' + TEXT.split("\n", 2)[2], "expected one of smoke, lesson, gpu, paper"),
        ("presets = 1\n" + TEXT, "unknown key 'presets'"),
        (
            TEXT.replace('"distillation.context" = [2]', "preset = ['paper']"),
            "number 2: preset sta",
        ),
        (TEXT.replace('"imagination.length"', "imagination.length"), '"imagination.length" = ...'),
        (TEXT.replace("variant =", "name ="), "number 3: unknown key 'name'"),
        (TEXT.replace("seeds = [0]", "seeds = []"), "number 2: seeds is missing or empty"),
        (
            TEXT.replace('variant = "short"\n', ""),
            "number 3: overrides of imagination.length need a name",
        ),
        (TEXT.replace('"bc"', '"abc"'), "unknown method 'abc': did you mean bc"),
        (
            TEXT.replace("imagination.length", "imagination.lenth"),
            "unknown config field 'imagination.lenth': did you mean",
        ),
    ],
)
def test_mistakes_in_a_spec_name_the_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, KeyError), match=message):
        expand(read_spec(write_spec(tmp_path, text)))


def test_one_name_for_two_settings_is_refused() -> None:
    blocks = [
        Block((TASK,), ("ipd",), (0,), "short", {"imagination.length": length}) for length in (2, 3)
    ]
    assert len(expand(Spec((blocks[0], blocks[0]), "smoke"))) == 1
    with pytest.raises(ValueError, match=f"{TASK} ipd@short seed 0 stands twice"):
        expand(Spec(tuple(blocks), "smoke"))


def test_other_formats_are_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = Unit(TASK, "behaviour", 0, smoke())
    run(TASK, "behaviour", 0, smoke(), out=tmp_path, device="cpu")
    assert unit.done(tmp_path)
    monkeypatch.setattr(specs, "FORMAT", specs.FORMAT + 1)
    assert not unit.done(tmp_path)


def test_missing_spec_names_an_example(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"figures/study\.toml"):
        read_spec(tmp_path / "none.toml")


@given(groups=st.lists(st.integers(1, 4), min_size=1, max_size=6), workers=st.integers(1, 4))
def test_neighbours_train_different_values(groups: list[int], workers: int) -> None:
    config = Config()
    units = [
        Unit(TASK, f"method {i}", seed, config)
        for seed, count in enumerate(groups)
        for i in range(count)
    ]
    ordered = interleave(units, workers)
    assert Counter(map(str, ordered)) == Counter(map(str, units))
    # Inside a window of `workers` groups nobody comes twice before every other has come once more.
    for first in range(0, len(groups), workers):
        window = [u for u in ordered if first <= u.seed < first + workers]
        seen: Counter[int] = Counter()
        for unit in window:
            seen[unit.seed] += 1
            for other in range(first, min(first + workers, len(groups))):
                assert seen[other] >= min(seen[unit.seed] - 1, groups[other])


# -- running ---------------------------------------------------------------------------------------


def test_units_equal_single_runs(local: Path, tmp_path: Path) -> None:
    config = override(smoke(), QUICK)
    for method in ("bc", "iql"):
        for seed in (0, 1):
            run(TASK, method, seed, config, out=tmp_path, variant="quick", device="cpu")
    assert_same(scores(local), scores(tmp_path))
    assert set(scores(local)) == {
        f"{TASK}/{m}@quick/seed-{s}" for m in ("bc", "iql") for s in (0, 1)
    }


def test_finished_units_are_never_repeated(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a finished unit was started again")

    monkeypatch.setattr(sweep, "run", forbidden)
    assert run_units(expand(spec()), out=local, threads=1, device="cpu") == []
    states = status(expand(spec()), local)
    assert (states["state"] == "done").all() and (states["seconds"] > 0).all()


def test_a_failure_stops_nothing_else_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes(task: str, method: str, seed: int, *args: Any, **kwargs: Any) -> Any:
        if (method, seed) == ("bc", 1):
            raise FloatingPointError("the loss exploded")
        return run(task, method, seed, *args, **kwargs)

    units = expand(spec())
    with monkeypatch.context() as patched:
        patched.setattr(sweep, "run", sometimes)
        failed = run_units(units, out=tmp_path, threads=1, device="cpu")
    assert failed == [f"{TASK} bc@quick seed 1: FloatingPointError: the loss exploded"]
    found = status(units, tmp_path).set_index(["method", "seed"])
    assert found["state"].value_counts().to_dict() == {"done": 3, "failed": 1}
    assert "the loss exploded" in found.loc[("bc@quick", 1), "error"]
    text = sweep.format_status(status(units, tmp_path), 2)
    assert f"failed: {TASK} bc@quick seed 1: FloatingPointError" in text
    assert "3 done, 0 running, 1 failed, 0 to do" in text
    assert run_units(units, out=tmp_path, threads=1, device="cpu") == []
    assert (status(units, tmp_path)["state"] == "done").all()


def test_another_configuration_is_not_taken_for_done(local: Path) -> None:
    other = Spec((Block((TASK,), ("bc",), (0,), "quick", {**QUICK, "values.width": 8}),), "smoke")
    (problem,) = run_units(expand(other), out=local, threads=1, device="cpu")
    assert "another configuration" in problem
    (local / TASK / "bc@quick" / "seed-0" / "error.json").unlink()


def test_a_finished_unit_of_other_data_is_reported(
    local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = umaze_data().select_episodes(torch.arange(10))
    monkeypatch.setattr(sweep, "load_task", lambda task: shorter)
    units = expand(spec())
    problems = run_units(units, out=local, threads=1, device="cpu")
    assert len(problems) == len(units)
    assert all("was trained on other data; choose another --out" in text for text in problems)


def test_killed_sweep_repeats_no_finished_unit(
    tmp_path: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def dying(task: str, method: str, seed: int, *args: Any, **kwargs: Any) -> Any:
        started.append(f"{method} {seed}")
        result = run(task, method, seed, *args, **kwargs)
        if len(started) == 2:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "run", dying)
        with pytest.raises(KeyboardInterrupt):
            run_units(expand(spec()), out=tmp_path, threads=1, device="cpu")
        assert len(started) == 2
        run_units(expand(spec()), out=tmp_path, threads=1, device="cpu")
    assert len(started) == len(set(started)) == 4
    assert_same(scores(tmp_path), scores(local))


def test_status_tells_running_from_to_do(tmp_path: Path) -> None:
    units = expand(spec())
    assert set(status(units, tmp_path)["state"]) == {"to do"}
    with exclusive(units[0].folder(tmp_path)):
        assert status(units, tmp_path)["state"].tolist() == ["running", *["to do"] * 3]
    assert set(status(units, tmp_path)["state"]) == {"to do"}  # as after a killed process
    assert "unknown until" in sweep.format_status(status(units, tmp_path), 1)


def test_time_left_by_hand() -> None:
    rows = [
        ("a", "ipd", "done", 10.0),
        ("a", "ipd", "done", 30.0),
        ("a", "bc", "done", 2.0),
        ("a", "ipd", "to do", None),
        ("b", "ipd", "running", None),
        ("b", "dt", "failed", None),
    ]
    table = pd.DataFrame(rows, columns=["task", "method", "state", "seconds"])
    # 20 as the same task and method, 20 / 2 as the same method, 14 as everything.
    assert sweep.seconds_left(table, workers=2) == pytest.approx((20 + 10 + 14) / 2)


def test_two_that_need_a_stage_at_once_train_it_once(tmp_path: Path) -> None:
    trained: list[int] = []
    barrier = threading.Barrier(2)

    def need(number: int) -> None:
        stage = Stage(tmp_path / "stage", {"stage": "values"})
        barrier.wait()
        with stage.claim():
            if not stage.done:
                trained.append(number)
                time.sleep(0.2)
                stage.store({"x": torch.ones(1)}, {"seconds": {"values": stage.seconds()}})
        assert stage.done

    threads = [threading.Thread(target=need, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1
    # Who waited does not count the waiting as training.
    assert Stage(tmp_path / "stage", {"stage": "values"}).load()[1]["seconds"]["values"] < 10


def test_two_processes_give_the_numbers_of_one(local: Path, tmp_path: Path) -> None:
    units = expand(spec(("iql", "bc"), (0,)))
    with parallel_config("loky", n_jobs=2):
        assert run_units(units, out=tmp_path, threads=1, device="cpu", progress=False) == []
    whole = scores(local)
    assert_same(scores(tmp_path), {name: whole[name] for name in scores(tmp_path)})


@pytest.fixture
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as found:
        yield found


@pytest.mark.filterwarnings("default")
def test_dask_cluster_of_two_workers_gives_the_local_numbers(
    cluster: Any, local: Path, elsewhere: str, tmp_path: Path
) -> None:
    dask = {"backend": "dask", "n_jobs": -1, "scheduler_host": cluster.scheduler_address}
    with parallel_config(**dask):
        failed = run_units(expand(spec()), out=tmp_path, threads=1, device="cpu", progress=False)
    assert failed == []
    assert_same(scores(tmp_path), scores(local))
    assert len(cluster.workers) == 2
    units = expand(spec(("bc",), (0,)), datasets={TASK: elsewhere})
    with parallel_config(**dask):
        assert run_units(units, out=tmp_path / "dask", threads=1, device="cpu") == []
    assert run_units(units, out=tmp_path / "here", threads=1, device="cpu") == []
    assert_same(scores(tmp_path / "dask"), scores(tmp_path / "here"))


# -- other data for a registered task --------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with half of the maze's episodes, under somebody else's id."""
    whole = umaze_data()
    half = whole.select_episodes(torch.arange(whole.episodes // 2))
    save_minari(half, "other/umaze-v0")
    folder = tmp_path_factory.mktemp("elsewhere") / "umaze"
    shutil.move(local_path("other/umaze-v0").parent, folder)
    return str(folder)


def test_units_with_other_data_equal_single_runs_with_it(
    elsewhere: str, local: Path, tmp_path: Path
) -> None:
    units = expand(spec(("bc",), (0,)), datasets={TASK: elsewhere})
    assert run_units(units, out=tmp_path / "sweep", threads=1, device="cpu") == []
    run(
        open_task(TASK, elsewhere),
        "bc",
        0,
        override(smoke(), QUICK),
        out=tmp_path / "single",
        variant="quick",
        device="cpu",
    )
    found = scores(tmp_path / "sweep")
    assert_same(found, scores(tmp_path / "single"))
    name = f"{TASK}/bc@quick/seed-0"
    assert list(found) == [name]
    identities = [
        json.loads((out / name / "config.json").read_text())
        for out in (tmp_path / "sweep", tmp_path / "single", local)
    ]
    assert identities[0] == identities[1]
    assert identities[0]["dataset"] != identities[2]["dataset"]
    assert "opened" not in identities[2]


def test_runs_with_other_data_are_done_for_that_data_alone(elsewhere: str, tmp_path: Path) -> None:
    own, other = (
        expand(spec(("behaviour",), (0,)), datasets=datasets)
        for datasets in ({}, {TASK: elsewhere})
    )
    assert own[0].folder(tmp_path) == other[0].folder(tmp_path)
    assert run_units(other, out=tmp_path, threads=1, device="cpu") == []
    assert other[0].done(tmp_path) and not own[0].done(tmp_path)
    (problem,) = run_units(own, out=tmp_path, threads=1, device="cpu")
    assert "other data" in problem


def quietly(folder: Path) -> list[str]:
    """Options of a sweep into `folder`: one worker and one thread, no bars."""
    places = ["--out", str(folder / "runs"), "--results", str(folder / "data")]
    return [*places, "--quiet", *["--device", "cpu", "--threads", "1", "--workers", "1"]]


def test_command_line_sweeps_other_data_and_names_its_source(
    elsewhere: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f'preset = "smoke"\n[[runs]]\ntasks = ["{TASK}"]\nmethods = ["behaviour"]\nseeds = [0]\n'
    common = ["sweep", str(write_spec(tmp_path, text)), *quietly(tmp_path)]
    other = [*common, "--datasets", f"{TASK}={elsewhere}"]
    assert main([*other, "--status"]) == 0
    assert "0 done, 0 running, 0 failed, 1 to do" in capsys.readouterr().out
    assert main(other) == 0
    assert main([*other, "--status"]) == 0
    assert "1 done, 0 running, 0 failed, 0 to do" in capsys.readouterr().out
    assert main([*common, "--status"]) == 0
    assert "0 done" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "data" / f"scores-{TASK}.csv")
    assert set(table["source"]) == {"other/umaze-v0"}
    facts = read_catalogue(tmp_path / "data")
    words = explain([TASK], table, facts)
    assert f"dataset `other/umaze-v0` in place of `ipd-lite/{TASK}-v0`" in words
    assert "in place of" not in explain([TASK], table.assign(source="ipd-lite"), facts)
    assert "in place of" not in explain([TASK], table.drop(columns="source"), facts)


def test_mistakes_about_other_data(elsewhere: str, tmp_path: Path) -> None:
    assert specs.other_data([f"{TASK}={elsewhere}"]) == {TASK: elsewhere}
    with pytest.raises(ValueError, match="expected TASK=ID_OR_PATH"):
        specs.other_data([elsewhere])
    with pytest.raises(ValueError, match=f"names {TASK} twice"):
        specs.other_data([f"{TASK}={elsewhere}"] * 2)
    with pytest.raises(KeyError, match="unknown task 'maze'"):
        specs.other_data([f"maze={elsewhere}"])
    with pytest.raises(DataError, match=f"{tmp_path}.* is not on this machine"):
        specs.other_data([f"{TASK}={tmp_path}/nowhere"])
    with pytest.raises(ValueError, match="names pointmaze-large, but the spec has only"):
        expand(spec(), datasets={"pointmaze-large": elsewhere})


# -- damage ----------------------------------------------------------------------------------------


def once(root: Path, methods: tuple[str, ...] = ("bc", "behaviour")) -> list[Unit]:
    units = expand(spec(methods, (0,)))
    assert run_units(units, out=root, threads=1, device="cpu", progress=False) == []
    return units


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pristine")
    once(out)
    return out


FILES = ("config.json", "record.json", "scores.csv", "episodes.csv", "log.csv")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        *((name, kept) for name in (*FILES, "policy.safetensors") for kept in (0, 0.5)),
        *((name, "[1, 2]\n") for name in FILES),
        ("config.json", None),
        ("record.json", None),
        ("episodes.csv", None),
    ],
)
def test_one_damaged_file_costs_one_unit(
    name: str, kept: Any, pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, nothing else stops, and the advice works when it is followed."""
    out = tmp_path / "runs"
    shutil.copytree(pristine, out)
    folder = out / TASK / "bc@quick" / "seed-0"
    damage(folder / name, kept)
    units = expand(spec(("bc", "behaviour"), (0,)))
    (problem,) = run_units(units, out=out, threads=1, device="cpu", progress=False)
    # What damage makes of config.json may be told from record.json, its counterpart.
    assert f"{folder}/" in problem and name in problem and "damaged" in problem
    assert f"delete the folder {folder} and run again" in problem
    text = sweep.format_status(status(units, out), 1)
    assert "1 done, 0 running, 1 failed, 0 to do" in text and problem.split(": ", 1)[1] in text
    (written, *_) = gather.write_results(units, out, tmp_path / "data", device="cpu")
    assert pd.read_csv(written)["method"].tolist() == ["behaviour"] * 2
    with pytest.raises(ValueError, match="is damaged"):
        run(TASK, "bc", 0, smoke(), user=QUICK, variant="quick", out=out, device="cpu")
    shutil.rmtree(folder)
    assert run_units(units, out=out, threads=1, device="cpu", progress=False) == []
    assert_same(scores(out), scores(pristine))


def damage(file: Path, kept: Any) -> None:
    if kept is None:
        file.unlink()
    elif isinstance(kept, str):
        file.write_text(kept)
    else:
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * kept)])


@pytest.mark.parametrize("content", ["", "[]", '{"er'])
def test_a_damaged_note_of_a_failure_stops_nobody(content: str, tmp_path: Path) -> None:
    units = expand(spec(("behaviour",), (0,)))
    file = units[0].folder(tmp_path) / "error.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert "error.json is damaged" in status(units, tmp_path)["error"][0]
    assert run_units(units, out=tmp_path, threads=1, device="cpu", progress=False) == []
    assert status(units, tmp_path)["state"].tolist() == ["done"]


def test_a_damaged_stage_is_named_and_its_advice_works(pristine: Path, tmp_path: Path) -> None:
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / TASK / "bc@quick" / "seed-0"
    (stage,) = tmp_path.rglob("result.safetensors")
    stage.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{stage} is damaged .* delete it .* delete {folder} too"):
        evaluate_again(folder, 2, device="cpu")
    stage.unlink()
    with pytest.raises(FileNotFoundError, match=f"is missing .* delete {folder} too"):
        evaluate_again(folder, 2, device="cpu")
    shutil.rmtree(folder)
    once(tmp_path)
    assert_same(scores(tmp_path), scores(pristine))
    assert evaluate_again(folder, 2, device="cpu")["episodes"].tolist() == [2, 2]


def test_a_killed_worker_costs_its_own_unit_alone(
    tmp_path: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_attempt", killed_at_bc_1)
    done: list[str] = []
    with parallel_config("loky", n_jobs=2):
        failed = run_units(
            expand(spec()),
            out=tmp_path,
            threads=1,
            device="cpu",
            progress=False,
            task_done=done.append,
        )
    assert len(failed) == 1 and done == [TASK]
    assert failed[0].startswith(f"{TASK} bc@quick seed 1: its process was killed")
    monkeypatch.undo()
    states = status(expand(spec()), tmp_path)
    assert states["state"].value_counts().to_dict() == {"done": 3, "failed": 1}
    assert "was killed" in "".join(states["error"])
    assert run_units(expand(spec()), out=tmp_path, threads=1, device="cpu", progress=False) == []
    assert_same(scores(tmp_path), scores(local))


def test_finished_task_is_reported_again(pristine: Path) -> None:
    """A sweep that was killed before it wrote the results writes them when it is called again."""
    done: list[str] = []
    units = expand(spec())
    assert run_units(units, out=pristine, device="cpu", progress=False, task_done=done.append) == []
    assert done == [TASK]


def killed_at_bc_1(index: int, unit: Unit, *rest: Any, attempt: Any = sweep._attempt) -> Any:
    if unit.label == "bc@quick" and unit.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt(index, unit, *rest)


def test_results_hold_the_units_of_the_study_alone(pristine: Path, tmp_path: Path) -> None:
    shutil.copytree(pristine, tmp_path / "runs")
    folder = tmp_path / "runs" / TASK
    shutil.copytree(folder / "bc@quick", folder / "bc-old")
    shutil.copytree(folder / "bc@quick" / "seed-0", folder / "bc@quick" / "seed-0 (copy)")
    run(TASK, "behaviour", 5, smoke(), out=tmp_path / "runs", device="cpu")
    units = expand(spec(("bc", "behaviour"), (0,)))
    (path, *_) = gather.write_results(units, tmp_path / "runs", tmp_path / "data", device="cpu")
    found = pd.read_csv(path)[["method", "variant", "seed"]].drop_duplicates()
    assert found.to_numpy().tolist() == [["behaviour", "quick", 0], ["bc", "quick", 0]]


def test_no_policy_is_replaced_by_one_of_another_configuration(tmp_path: Path) -> None:
    task = replace(open_task(TASK), environment="", no_environment="it was never made")
    policy = tmp_path / TASK / "bc" / "seed-0" / "policy.safetensors"
    for _ in range(2):
        with pytest.warns(UserWarning, match="it was never made"):
            run(task, "bc", 0, smoke(), user=QUICK, out=tmp_path, device="cpu")
    before = policy.read_bytes()
    with pytest.raises(ValueError, match="holds a policy with another configuration"):
        run(task, "bc", 0, smoke(), out=tmp_path, device="cpu")
    assert policy.read_bytes() == before
    # The same policy may be evaluated once there is an environment.
    assert len(run(TASK, "bc", 0, smoke(), user=QUICK, out=tmp_path, device="cpu")) == 2
    assert policy.read_bytes() == before


# -- what it leaves behind -------------------------------------------------------------------------


def test_record_holds_everything_about_a_unit(local: Path) -> None:
    folder = local / TASK / "iql@quick" / "seed-0"
    record = json.loads((folder / "record.json").read_text())
    assert record["config"]["values"]["updates"] == 8
    assert (record["task"], record["method"], record["variant"], record["seed"]) == (
        TASK,
        "iql",
        "quick",
        0,
    )
    assert record["dataset"] == umaze_data().fingerprint()
    assert record["processor"] and record["versions"]["torch"] == torch.__version__
    assert "commit" in record and "accelerator" in record and record["threads"] == 1
    episodes = pd.read_csv(folder / "episodes.csv")
    assert record["returns"]["last"] == episodes["return"].tolist()
    table = pd.read_csv(folder / "scores.csv").set_index("checkpoint")["score"]
    assert record["scores"] == table.to_dict()
    assert set(record["seconds"]) == {"values", "evaluation"} == set(record["memory"])


def test_imagination_is_recorded_with_threshold_and_horizon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(TASK, "ipd", 0, smoke(), out=tmp_path, device="cpu")
    unit = Unit(TASK, "ipd", 0, smoke())
    record = json.loads((unit.folder(tmp_path) / "record.json").read_text())
    book = record["imagination"]
    assert book["accepted"] + book["rejected_short"] + book["rejected_not_better"] == book["starts"]
    assert book["threshold"] > 0 and record["horizon"] == smoke().planner.horizon
    paths = gather.write_results([unit], tmp_path, tmp_path / "data", device="cpu")
    assert [p.name for p in paths] == [
        *(f"{kind}-{TASK}.csv" for kind in ("scores", "costs", "inside")),
        "catalogue.csv",
    ]
    costs = pd.read_csv(paths[1])
    assert costs.set_index("stage")["seconds"].to_dict() == record["seconds"]
    assert (costs["process_mb"] > 50).all() or costs["process_mb"].isna().all()
    inside = pd.read_csv(paths[2])
    assert inside["method"].tolist() == ["ipd"]
    assert inside["accepted"].tolist() == [book["accepted"]]
    # A later slice without this run leaves its row where it is, and the shown run has its arrays.
    monkeypatch.setattr(gather, "SHOWN", (TASK, "ipd", 0))
    run(TASK, "behaviour", 0, smoke(), out=tmp_path, device="cpu")
    later = [Unit(TASK, "behaviour", 0, smoke()), unit]
    paths = gather.write_results(later, tmp_path, tmp_path / "data", device="cpu")
    assert pd.read_csv(paths[2]).equals(inside)
    arrays, _ = load_tensors(next(p for p in paths if p.suffix == ".safetensors"))
    assert float(arrays["model/threshold"]) == pytest.approx(book["threshold"])


def test_command_line_from_the_spec_to_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        f'preset = "smoke"\n[[runs]]\ntasks = ["{TASK}"]\nmethods = ["bc", "behaviour"]\n'
        'seeds = [0, 1]\nvariant = "quick"\n[runs.overrides]\n'
        + "".join(f'"{name}" = {value}\n' for name, value in QUICK.items())
    )
    path = write_spec(tmp_path, text)
    common = [*quietly(tmp_path), "--methods", "bc"]
    assert main(["sweep", str(path), *common, "--status"]) == 0
    assert "0 done, 0 running, 0 failed, 2 to do" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    assert main(["sweep", str(path), *common]) == 0
    assert f"scores-{TASK}.csv" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "data" / f"scores-{TASK}.csv")
    assert len(table) == 4 and set(table["variant"]) == {"quick"}
    assert main(["sweep", str(path), *common, "--status"]) == 0
    assert "2 done, 0 running, 0 failed, 0 to do; time left" in capsys.readouterr().out
