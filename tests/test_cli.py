"""The command line: every option reaches the run, every mistake is one helpful line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest
import torch

import ipd_lite.cli
from ipd_lite.cli import main
from ipd_lite.settings import as_dict, override, preset
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import TASKS, get_task
from tests.recorded import TASK, smoke, umaze_data
from tests.test_fetch import d4rl_arrays, write


@pytest.fixture
def recorded() -> None:
    umaze_data()


def run_arguments(out: Path, *more: str, method: str = "behaviour") -> list[str]:
    return [
        "run",
        "--task",
        TASK,
        "--method",
        method,
        "--preset",
        "smoke",
        "--device",
        "cpu",
        "--quiet",
        "--out",
        str(out),
        *more,
    ]


def test_script_points_here() -> None:
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    scripts = tomllib.loads(project.read_text())["project"]["scripts"]
    assert scripts == {"ipd-lite": f"{ipd_lite.cli.__name__}:{main.__name__}"}


@pytest.mark.parametrize(
    "command", ["demo", "run", "sweep", "evaluate", "collect", "tasks", "methods", "figures"]
)
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"ipd-lite {command}" in printed
    assert ("--values.expectile" in printed) == (command in ("demo", "run"))


@pytest.mark.parametrize("command", ["figures", "methods", "tasks", "sweep", "evaluate"])
def test_commands_start_without_torch(command: str) -> None:
    """In a process of its own; a script that draws must not wait for a simulator."""
    code = (
        "import sys; from ipd_lite.cli import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'mujoco', 'minari', 'gymnasium'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_version_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ipd-lite {ipd_lite.__version__}\n"
    for arguments in ([], ["figgures"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert "figures" in "".join(capsys.readouterr())


def test_demo_is_a_shorter_lesson_and_leaves_other_presets_alone() -> None:
    lesson = ipd_lite.cli._default_config("run", [])
    assert lesson == preset("lesson")
    short = ipd_lite.cli._default_config("demo", [])
    assert short == override(lesson, ipd_lite.cli.DEMO) != lesson
    assert short.values.evaluations == short.distillation.evaluations == 1
    learned = replace(short.values, evaluations=lesson.values.evaluations)
    assert learned == lesson.values  # less of them, and plans exploit their errors
    assert ipd_lite.cli._default_config("demo", ["--preset", "smoke"]) == preset("smoke")


def test_help_shows_the_defaults_of_preset_and_task(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for name in ("smoke", "paper"):
        with pytest.raises(SystemExit):
            main(["run", "--preset", name, "--task", TASK, "--help"])
        shown.append(capsys.readouterr().out)
    assert f"(default: {get_task(TASK).config('smoke').world_model.members})" in shown[0]
    assert f"(default: {get_task(TASK).config('paper').imagination.starts})" in shown[1]
    assert shown[0] != shown[1]


# -- run -------------------------------------------------------------------------------------------


def test_run_prints_its_scores_and_its_folder(
    recorded: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run_arguments(tmp_path)) == 0
    printed = capsys.readouterr()
    folder = tmp_path / TASK / "behaviour" / "seed-0"
    scores = pd.read_csv(folder / "scores.csv")
    assert f"{scores['score'].iloc[0]:g}" in printed.out and str(folder) in printed.out
    assert printed.err == ""


def other_values(config: Any, prefix: str = "") -> dict[str, Any]:
    """A valid value other than the present one for every field of a nested configuration."""
    result: dict[str, Any] = {}
    hints = get_type_hints(type(config))
    for item in fields(config):
        name, value = prefix + item.name, getattr(config, item.name)
        if is_dataclass(value):
            result |= other_values(value, name + ".")
        elif name == "preset":
            continue
        elif isinstance(value, bool):
            result[name] = not value
        elif bool in get_args(hints[item.name]):
            result[name] = False
        elif isinstance(value, str):
            result[name] = next(choice for choice in get_args(hints[item.name]) if choice != value)
        elif isinstance(value, int):
            result[name] = 2 * value or 1
        elif value is None:
            result[name] = 0.5 if "quantile" in name else 1.5
        else:
            result[name] = round(0.8 * value + 0.03, 6)
    return result


def flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool) and not name.startswith("compute."):
        section, _, field = name.rpartition(".")
        return [f"--{section}.{'' if value else 'no-'}{field.replace('_', '-')}"]
    return [f"--{name.replace('_', '-')}", str(value)]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        result |= flatten(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return result


def test_every_config_field_can_be_set(recorded: None, tmp_path: Path) -> None:
    wanted = other_values(smoke())
    assert len(wanted) > 70
    arguments = [text for name, value in wanted.items() for text in flag(name, value)]
    assert main(run_arguments(tmp_path, *arguments)) == 0
    folder = tmp_path / TASK / "behaviour" / "seed-0"
    found = flatten(json.loads((folder / "config.json").read_text())["config"])
    assert found == {"preset": "smoke", **wanted}
    assert not set(wanted.items()) & set(flatten(as_dict(smoke())).items())


def test_a_single_field_keeps_the_others_of_the_preset(recorded: None, tmp_path: Path) -> None:
    assert main(run_arguments(tmp_path, "--values.expectile", "0.8", "--seed", "3")) == 0
    folder = tmp_path / TASK / "behaviour" / "seed-3"
    found = flatten(json.loads((folder / "config.json").read_text())["config"])
    assert found == {**flatten(as_dict(smoke())), "values.expectile": 0.8}


def test_evaluate_takes_the_folder_of_a_run(
    recorded: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run_arguments(tmp_path, method="bc")) == 0
    capsys.readouterr()
    folder = tmp_path / TASK / "bc" / "seed-0"
    arguments = ["evaluate", str(folder), "--episodes", "3", "--device", "cpu", "--quiet"]
    assert main(arguments) == 0
    header, *rows = capsys.readouterr().out.splitlines()[:3]
    assert "return_mean" in header and [row.split()[4] for row in rows] == ["3", "3"]


# -- the other commands ----------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_tasks_fits_a_terminal_and_breaks_no_name(
    columns: int,
    datasets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["tasks"]) == 0
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = printed.splitlines()
    assert max(map(len, lines)) <= max(columns, 100)
    assert sum(line.rstrip().endswith(" no") for line in lines) == len(TASKS)
    words = printed.split()
    for task in TASKS.values():
        for name in (task.name, task.environment, task.dataset, *task.command.split()[:2]):
            assert name in words, name
        assert f"{task.discount:g}/{task.horizon}" in words
        assert f"{task.reference_min:.6g}" in words and f"{task.reference_max:.6g}" in words


def test_tasks_says_which_data_is_here(datasets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120
    assert " yes " not in printed
    for name, task in TASKS.items():
        assert f" {name} " in printed
        assert f"{task.reference_max:.6g}" in printed
    (datasets / "ipd-lite" / f"{TASK}-v0" / "data").mkdir(parents=True)
    assert main(["tasks", TASK]) == 0
    here = capsys.readouterr().out
    assert " yes " in here and f"ipd-lite collect {TASK}" in here and "hopper" not in here
    assert main(["tasks", "pointmaze-medium"]) == 0
    assert "pointmaze-medium-slow" not in capsys.readouterr().out
    assert main(["tasks", "pointmaze-medium-", "pointmaze-l"]) == 0
    found = capsys.readouterr().out
    assert "pointmaze-medium-slow" in found and "pointmaze-large" in found
    assert main(["tasks", "pointmase-umaze"]) == 1
    assert "did you mean pointmaze-umaze" in capsys.readouterr().err


def test_import_and_download_report_what_came(
    datasets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "hopper.hdf5", d4rl_arrays(["terminal", "timeout"]))
    assert main(["import-d4rl", path, "--task", "hopper-medium-v2", "--quiet"]) == 0
    assert "2 episodes, 8 transitions, 1 terminated" in capsys.readouterr().out
    assert main(["download", "hopper-medium", "--quiet"]) == 1
    assert capsys.readouterr().err == (
        "ipd-lite: task hopper-medium is not on Minari's server; "
        "use `ipd-lite collect hopper-medium`\n"
    )


def test_collect_makes_the_data_once(
    datasets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = get_task(TASK)
    assert task.recipe is not None
    short = type(task.recipe)(maze="umaze", decisions=60)
    monkeypatch.setitem(TASKS, TASK, type(task)(**{**vars(task), "recipe": short}))
    assert main(["collect", TASK, "--quiet"]) == 0
    data = load_task(get_task(TASK))
    printed = capsys.readouterr().out
    assert f"{data.episodes} episodes, {len(data)} transitions" in printed
    assert main(["collect", TASK, "--quiet"]) == 1
    assert "--replace" in capsys.readouterr().err
    assert main(["collect", TASK, "--quiet", "--replace"]) == 0


def test_figures_draws_committed_results_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    both = (TASK, "pointmaze-medium")
    rows = [
        {
            "task": task,
            "method": method,
            "variant": "",
            "seed": seed,
            "checkpoint": label,
            "episodes": 4,
            "return_mean": -20.0,
            "score": 50.0 + seed,
            "success": 1.0,
            "wall_seconds": 1.0,
        }
        for task in both
        for method in ("iql", "ipd")
        for seed in (0, 1)
        for label in ("last", "best")
    ]
    pd.DataFrame(rows).to_csv(data / "scores-test.csv", index=False)
    assert main(["figures", "--data", str(data), "--out", str(out)]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in printed} == {
        *(f"scores-{task}{suffix}" for task in both for suffix in (".png", ".svg", ".md")),
        *(f"figure7-profile{suffix}" for suffix in (".png", ".svg")),
        *(f"table1{suffix}" for suffix in (".md", ".tex", ".csv")),
        "mazes.md",
        "groups.md",
    }
    assert all(path.stat().st_size > 0 for path in printed)
    assert "| 50.5 [50.0, 51.0] |" in (out / f"scores-{TASK}.md").read_text()


# -- mistakes --------------------------------------------------------------------------------------


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failing command prints."""
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("ipd-lite: ")
    return line


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (["--task", "pointmaze-umaz"], "did you mean pointmaze-umaze"),
        (["--task", "huge"], "`ipd-lite tasks` lists all"),
        (["--method", "ipd-nogat"], "did you mean ipd-nogate"),
        (["--method", "magic"], "`ipd-lite methods` lists all"),
        (["--preset", "huge"], "expected one of smoke, lesson, gpu, paper"),
        (["--device", "abacus"], "cpu"),
        (["--dataset", ""], "expected an id or a path"),
        (["--horizon", "0"], "horizon = 0: expected a whole number, at least 1"),
        (["--horizon=-1"], "horizon = -1: expected a whole number, at least 1"),
        (["--seed", "100000000000000000000"], "seed = 100000000000000000000: expected"),
        (["--seed=-1"], "seed = -1: expected a whole number, from 0 to"),
        (["--threads=-2"], "threads = -2: expected a whole number, at least 0"),
        (["--planner.candidates", "7"], "expected a multiple of world_model.elites (3)"),
        (["--distillation.heads", "3"], "distillation.width = 16: expected a multiple of"),
        (["--evaluation.episodes", "0"], "evaluation.episodes = 0: expected a whole number, at"),
        (["--evaluation.slots", "0"], "evaluation.slots = 0"),
        (["--values.width", "0"], "values.width = 0"),
        (["--values.batch-size=0"], "values.batch_size = 0"),
        (["--method", "ipd-noq", "--distillation.alpha", "1"], "method ipd-noq is defined by"),
        (["--method", "ipd-noaug", "--distillation.imagined_share=0.5"], "method ipd-noaug"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_with_the_remedy(
    change: list[str],
    remedy: str,
    recorded: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert remedy in failure(run_arguments(tmp_path, *change), capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_missing_cuda_is_one_line(
    recorded: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = run_arguments(tmp_path)
    arguments[arguments.index("cpu")] = "cuda"
    assert "use --device cpu" in failure(arguments, capsys)


def test_missing_data_says_how_to_make_it(
    datasets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"`ipd-lite collect {TASK}`" in failure(run_arguments(tmp_path), capsys)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["evaluate", "nowhere", "--quiet"], "runs/TASK/METHOD/seed-N"),
        (["figures", "--data", "nowhere"], "no scores-*.csv in nowhere"),
        (["collect", "pointmaze-umase"], "did you mean pointmaze-umaze"),
        (["sweep", "figures/study.toml", "--workers", "0"], "workers = 0: expected a whole number"),
        (["demo", "--workers", "0"], "workers = 0: expected a whole number"),
        (["evaluate", ".", "--episodes", "0"], "episodes = 0: expected a whole number"),
    ],
)
def test_mistakes_of_the_other_commands(
    arguments: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remedy in failure(arguments, capsys)


def test_another_configuration_in_the_same_folder_is_one_line(
    recorded: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run_arguments(tmp_path)) == 0
    capsys.readouterr()
    line = failure(run_arguments(tmp_path, "--evaluation.episodes", "2"), capsys)
    assert "choose another --out" in line


def test_debug_shows_where_it_happened(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="unknown method"):
        main(run_arguments(tmp_path, "--debug", method="magic"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--values.expectile", "much"], "--values.expectile"),
        (["--values.expectile", "1.5"], "values.expectile = 1.5"),
        (["--values.nonsense", "1"], "--values.nonsense"),
        (["--planner.kind", "magic"], "--planner.kind"),
    ],
)
def test_bad_values_name_the_option(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: Any = main(run_arguments(tmp_path, *arguments))
    except SystemExit as stopped:
        status = stopped.code
    assert status != 0
    printed = capsys.readouterr()
    assert named in printed.err + printed.out and "Traceback" not in printed.err


def test_interrupt_says_that_it_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ipd_lite.study.run.run", interrupted)
    assert main(run_arguments(tmp_path)) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_terminated_is_stopped_like_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(self: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(ipd_lite.cli.COMMANDS["methods"], "run", killed)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["methods"]) == 130
    assert "the same command continues from here" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_more_threads_than_a_machine_has_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--preset", "smoke", "--threads", "99999"]) == 1
    assert "threads = 99999: expected at most" in capsys.readouterr().err
