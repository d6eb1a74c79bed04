"""`ipd-lite demo`: every stage and every method on one maze, side by side in a few minutes."""

from __future__ import annotations

import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from joblib import Parallel, delayed

from ipd_lite.data.minari_files import local_path
from ipd_lite.files import load_arrays, save_tensors, write_atomically, write_csv
from ipd_lite.report.results import summarize
from ipd_lite.report.tables import format_table
from ipd_lite.settings import Config
from ipd_lite.study.pipeline import Pipeline, choose_device
from ipd_lite.study.run import configured, run
from ipd_lite.study.spec import Unit
from ipd_lite.tasks.collect import collect
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.registry import get_task
from ipd_lite.tasks.task import MazeRecipe

DEMO_METHODS = (
    "behaviour",
    "bc",
    "dt",
    "iql",
    "mpc",
    "ipd-noaug",
    "ipd-greedy",
    "ipd-noq",
    "ipd",
)
"""What the demo compares: one rival of each kind, and the ablations."""


def _open(task: str, seed: int, config: Config, out: Path, device: str, threads: int) -> Pipeline:
    """The pipeline in a worker process that may use `threads` threads."""
    torch.set_num_threads(threads)
    return Pipeline(get_task(task), seed, config, out, choose_device(device))


def _collect(task: str, progress: bool) -> None:
    collect(get_task(task), progress)


def _train(
    stage: str, task: str, seed: int, config: Config, out: Path, device: str, threads: int
) -> None:
    getattr(_open(task, seed, config, out, device, threads), stage)


def _evaluate(
    method: str, task: str, seed: int, config: Config, out: Path, device: str, threads: int
) -> None:
    torch.set_num_threads(threads)
    run(task, method, seed, config, out=out, device=device)


def _figures(
    task: str, seed: int, config: Config, out: Path, device: str, threads: int
) -> list[Path]:
    from ipd_lite.report.inside import inside_arrays
    from ipd_lite.report.redraw import inside_figures

    pipeline = _open(task, seed, config, out, device, threads)
    save_tensors(out / "inside.safetensors", inside_arrays(pipeline))
    return inside_figures(load_arrays(out / "inside.safetensors"), out / "figures")


def demo(
    task_name: str,
    seed: int,
    config: Config,
    *,
    out: Path,
    device: str = "auto",
    workers: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """Collect what is missing, run the main methods, write scores.csv and figures, print both.

    Stages are shared between methods and kept: called again it only draws. On a GPU one worker is
    enough.
    """
    started = time.perf_counter()
    task = get_task(task_name)
    where = choose_device(device)
    workers = 1 if where.type == "cuda" else max(1, workers)
    threads = max(1, torch.get_num_threads() // workers)

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {text}", file=sys.stderr)

    if not local_path(task.dataset).is_dir():
        say(f"collecting {task.dataset}")
        # Minari's writer leaves 200 MB behind, which go with its process.
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            alone.submit(_collect, task_name, progress).result()
    data = load_task(task)
    say(f"{task.dataset}: {data.episodes} episodes, {len(data)} transitions")
    common = (task_name, seed, config, out, device, threads)
    greedy = configured(config, "ipd-greedy")
    # loky replaces a worker whose memory grew; nothing is lost, so nobody needs to read of it.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
    with Parallel(n_jobs=workers, return_as="generator_unordered") as parallel:
        say("values (section 3.1) | world model (3.2) and the rivals without values")
        jobs = [
            delayed(_train)("values", *common),
            delayed(_train)("world_model", *common),
            *(delayed(_evaluate)(method, *common) for method in ("dt", "bc", "behaviour")),
        ]
        for _ in parallel(jobs):
            pass
        say("imagination (3.3, Algorithm 1) by MPC and by greedy Q, rivals without it")
        jobs = [
            delayed(_train)("continuations", *common),
            delayed(_train)("continuations", task_name, seed, greedy, out, device, threads),
            *(delayed(_evaluate)(method, *common) for method in ("ipd-noaug", "mpc", "iql")),
        ]
        for _ in parallel(jobs):
            pass
        say("distilling the transformer policies (3.4) | figures")
        rest = [delayed(_evaluate)(method, *common) for method in ("ipd", "ipd-greedy", "ipd-noq")]
        figures: list[Path] = []
        # What happened inside is drawn on the maze's plan; other tasks have none.
        inside = [delayed(_figures)(*common)] if isinstance(task.recipe, MazeRecipe) else []
        for result in parallel([*inside, *rest]):
            figures += result or []
    from ipd_lite.report.gather import gather_scores  # drawing takes 70 MB, in every process
    from ipd_lite.report.redraw import score_figures

    scores = gather_scores([Unit(task_name, m, seed, config) for m in DEMO_METHODS], out)
    write_csv(out / "scores.csv", scores)
    table = format_table(summarize(scores))
    write_atomically(out / "scores.md", table + "\n")
    figures += score_figures(scores, out / "figures", (".png",))
    print(table)
    print(f"\nscore: {task.score_definition}; 'best' is chosen on the reported episodes")
    print(f"environment {task.environment}, dataset {task.dataset}, one seed: no interval\n")
    for path in [out / "scores.csv", *sorted(figures)]:
        print(path)
    say("done")
    return scores
