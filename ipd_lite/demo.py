"""`ipd-lite demo`: every stage and every method on one maze, side by side in a few minutes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pandas as pd
from joblib import Parallel, delayed

from ipd_lite.collect import collect
from ipd_lite.config import Config, override
from ipd_lite.data import load_task, local_path
from ipd_lite.pipeline import METHODS, Pipeline, choose_device, run
from ipd_lite.report import (
    format_table,
    gather_scores,
    inside_figures,
    score_figures,
    summarize,
)
from ipd_lite.runs import write_atomically, write_csv
from ipd_lite.tasks import get_task

def _train(
    stages: tuple[str, ...], task: str, seed: int, config: Config, out: Path, device: str,
    threads: int,
) -> None:  # fmt: skip
    import torch

    torch.set_num_threads(threads)
    pipeline = Pipeline(get_task(task), seed, config, out, choose_device(device))
    for stage in stages:
        getattr(pipeline, stage)


def _evaluate(
    method: str, task: str, seed: int, config: Config, out: Path, device: str, threads: int
) -> None:
    import torch

    torch.set_num_threads(threads)
    run(task, method, seed, config, out=out, device=device)


def _figures(
    task: str, seed: int, config: Config, out: Path, device: str, threads: int
) -> list[Path]:
    import torch

    torch.set_num_threads(threads)
    pipeline = Pipeline(get_task(task), seed, config, out, choose_device(device))
    return inside_figures(pipeline, out / "figures")


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
    """Collect what is missing, run every method, write scores.csv and figures, print both.

    Stages are shared between methods and kept: called again it only draws. On a GPU one worker is
    enough.
    """
    import torch

    started = time.perf_counter()
    task = get_task(task_name)
    where = choose_device(device)
    workers = 1 if where.type == "cuda" else max(1, workers)
    threads = max(1, torch.get_num_threads() // workers)

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {text}", file=sys.stderr)

    if not local_path(task.dataset).is_dir():
        say(f"collecting {task.dataset}")
        collect(task, progress)
    data = load_task(task)
    say(f"{task.dataset}: {data.episodes} episodes, {len(data)} transitions")
    common = (task_name, seed, config, out, device, threads)
    greedy = override(config, dict(METHODS["ipd-greedy"].overrides))
    with Parallel(n_jobs=workers, return_as="generator_unordered") as parallel:
        say("values (section 3.1) | world model (3.2), behaviour cloning")
        for _ in parallel(
            [
                delayed(_train)(("values",), *common),
                delayed(_train)(("world_model", "cloned"), *common),
            ]
        ):
            pass
        say("imagination (3.3, Algorithm 1) by MPC and by greedy Q, rivals without it")
        first = [
            delayed(_train)(("continuations",), *common),
            delayed(_train)(("continuations",), task_name, seed, greedy, out, device, threads),
        ]
        slow_first = ["dt", "bc", "ipd-noaug", "behaviour", "mpc", "iql"]
        jobs = first + [delayed(_evaluate)(method, *common) for method in slow_first]
        for _ in parallel(jobs):
            pass
        say("distilling the transformer policies (3.4) | figures")
        rest = [delayed(_evaluate)(method, *common) for method in ("ipd", "ipd-greedy", "ipd-noq")]
        figures: list[Path] = []
        for result in parallel([delayed(_figures)(*common), *rest]):
            figures += result or []
    scores = gather_scores(out)
    scores = scores[(scores["task"] == task_name) & (scores["seed"] == seed)]
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


def redraw(data: Path, out: Path) -> list[Path]:
    """Draw the committed results again: score charts and tables from `data`/scores-*.csv.

    Raises:
        FileNotFoundError: there are no result files in `data`.
    """
    files = sorted(data.glob("scores-*.csv"))
    if not files:
        raise FileNotFoundError(f"no scores-*.csv in {data}; run this in the repository's root")
    paths = []
    for file in files:
        scores = pd.read_csv(file)
        paths += score_figures(scores, out, (".svg", ".png"))
        table = out / f"{file.stem}.md"
        write_atomically(table, format_table(summarize(scores)) + "\n")
        paths.append(table)
    return paths
