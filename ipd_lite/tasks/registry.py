"""The one registry: what `--task NAME` means.

A task names its environment, its dataset, the two reference returns that define its normalized
score, what is known about its reward and termination, and the few config fields that it overrides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import minari

from ipd_lite.suggestions import unknown
from ipd_lite.tasks.known import (
    LOCOMOTION_TERMINATION,
    never_terminates,
    pen_termination,
    reach_goal_reward,
    reach_goal_termination,
)
from ipd_lite.tasks.mazes import DECISION_LIMITS
from ipd_lite.tasks.overrides import (
    ANT_MAZE,
    FAR_GOAL,
    FAST_TARGET,
    LESSON,
    LOCOMOTION,
    LOCOMOTION_LESSON,
    MANIPULATION,
)
from ipd_lite.tasks.robots import ANT_MAZE_LIMITS, HAND_LIMITS
from ipd_lite.tasks.snapshots import ENVIRONMENTS, REFERENCE_RETURNS
from ipd_lite.tasks.task import MazeRecipe, Mixture, SnapshotRecipe, Task


def _maze_task(
    name: str,
    description: str,
    controller: float,
    overrides: Mapping[str, Any] | None = None,
    lesson: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> Task:
    maze = name.split("-")[1]
    limit = DECISION_LIMITS[maze]
    return Task(
        name=name,
        description=description,
        environment=f"ipd_lite/PointMaze-{maze.capitalize()}-v0",
        dataset=f"ipd-lite/{name}-v0",
        reference_min=-float(limit),
        reference_max=controller,
        score_definition=(
            f"0 = never arrives (return {-limit}), 100 = the noise-free waypoint controller "
            f"(mean return {controller:.2f} over the same 100 starts); planning can exceed 100"
        ),
        horizon=limit,
        termination="distance to the goal <= 0.45 m",
        recipe=MazeRecipe(maze=maze, **recipe),
        overrides=overrides or {},
        lesson=lesson or {},
        position_dimensions=(0, 1),
        reward=reach_goal_reward,
        terminated=reach_goal_termination(maze),
    )


def _locomotion_task(robot: Any, name: str, what: str, dataset: str, **rest: Any) -> Task:
    low, high = REFERENCE_RETURNS[robot]
    environment = ENVIRONMENTS[robot]
    words, function = LOCOMOTION_TERMINATION[robot]
    return Task(
        name=f"{robot}-{name}",
        description=what,
        environment=environment,
        dataset=dataset,
        reference_min=low,
        reference_max=high,
        score_definition=(
            f"0 = D4RL's random policy, 100 = D4RL's expert; returns are measured in {environment}"
        ),
        termination=words,
        terminated=function,
        overrides=LOCOMOTION,
        lesson=LOCOMOTION_LESSON,
        **rest,
    )


_MIXTURES: dict[Mixture, str] = {
    "medium": "one partly trained actor with its exploration noise",
    "medium-replay": "every snapshot of a training up to medium's level, in training order",
    "full-replay": "every snapshot of a training, in training order",
    "medium-expert": "half medium, half the best snapshot",
}


# Chosen by the mean, spread and best of noisy episodes, to come near D4RL's set of the same name
# (figures/data/datasets.csv has both). SAC's HalfCheetah stays at medium's level for more of its
# training than TQC's, which lifts the replay's mean towards D4RL's; TQC's medium has more spread.
_RECIPES: dict[str, tuple[SnapshotRecipe, ...]] = {
    "hopper": (
        SnapshotRecipe("medium", "hopper-tqc-0", medium=180_032),
        SnapshotRecipe("medium-replay", "hopper-tqc-0", medium=180_032),
        SnapshotRecipe("full-replay", "hopper-tqc-0"),
        SnapshotRecipe("medium-expert", "hopper-tqc-0", medium=180_032, expert=940_032),
    ),
    "halfcheetah": (
        SnapshotRecipe("medium", "halfcheetah-tqc-0", medium=80_000),
        SnapshotRecipe("medium-replay", "halfcheetah-sac-0", medium=120_000),
        SnapshotRecipe("full-replay", "halfcheetah-tqc-0"),
        SnapshotRecipe("medium-expert", "halfcheetah-tqc-0", medium=80_000, expert=1_060_032),
    ),
    "walker2d": (
        SnapshotRecipe("medium", "walker2d-tqc-0", medium=290_048),
        SnapshotRecipe("medium-replay", "walker2d-tqc-0", medium=290_048),
        SnapshotRecipe("full-replay", "walker2d-tqc-0"),
        SnapshotRecipe("medium-expert", "walker2d-tqc-0", medium=290_048, expert=840_000),
    ),
}


# Observation and action entries, and transitions of D4RL's files, in the order above.
_WIDTHS = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6)}


_D4RL_STEPS = {
    "hopper": (1_000_000, 402_000, 1_000_000, 2_000_000),
    "halfcheetah": (1_000_000, 202_000, 1_000_000, 2_000_000),
    "walker2d": (1_000_000, 302_000, 1_000_000, 2_000_000),
}


_D4RL_FILES = "http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2"


_NOT_D4RL = (
    "Minari's mujoco/* sets are not D4RL's: their policies are better trained (even `medium` is "
    "near an expert of D4RL), so these scores stand beside no published table"
)


def _megabytes(steps: int, observations: int, actions: int, bytes_per_number: int = 8) -> float:
    """What a recording of these widths takes without compression, rewards and flags included."""
    return round(steps * ((observations + actions + 1) * bytes_per_number + 2) / 1e6, 1)


def _locomotion_tasks(robot: Any) -> Iterator[Task]:
    """Local sets, D4RL's own files and Minari's, in this order."""
    widths = _WIDTHS[robot]
    for recipe in _RECIPES[robot]:
        # v0 was made from other, weaker actors.
        dataset = f"ipd-lite/{robot}/{recipe.mixture}-v1"
        what = _MIXTURES[recipe.mixture]
        yield _locomotion_task(robot, recipe.mixture, what, dataset, recipe=recipe)
    for mixture, steps in zip(_MIXTURES, _D4RL_STEPS[robot], strict=True):
        yield _locomotion_task(
            robot,
            f"{mixture}-v2",
            f"D4RL's own {mixture} file, recorded in version 2 of the environment",
            f"d4rl/{robot}/{mixture}-v2",
            source="D4RL v2",
            file=f"{_D4RL_FILES}/{robot}_{mixture.replace('-', '_')}-v2.hdf5",
            steps=steps,
            megabytes=_megabytes(steps, *widths, bytes_per_number=4),
            alternative=f"{robot}-{mixture}",
        )
    for kind in ("simple", "medium", "expert"):
        yield _locomotion_task(
            robot,
            f"{kind}-minari",
            f"Minari's {kind} set: not D4RL, better policies",
            f"mujoco/{robot}/{kind}-v0",
            source="Minari mujoco",
            remote_dataset=f"mujoco/{robot}/{kind}-v0",
            steps=1_000_000,
            megabytes=_megabytes(1_000_000, *widths),
            alternative=f"{robot}-medium" if kind != "expert" else f"{robot}-medium-expert",
            warning=_NOT_D4RL,
        )


# D4RL's random and expert returns; observation and action entries; steps of human, cloned, expert.
_HANDS: dict[str, tuple[tuple[float, float], tuple[int, int], tuple[int, int, int]]] = {
    "pen": ((96.262799, 3076.8331017826877), (45, 24), (5_000, 500_000, 500_000)),
    "door": ((-56.512833, 2880.5693087298737), (39, 28), (6_729, 1_000_000, 1_000_000)),
    "hammer": ((-274.856578, 12794.134825156867), (46, 26), (11_310, 1_000_000, 1_000_000)),
    "relocate": ((-6.425911, 4233.877797728884), (39, 30), (9_942, 1_000_000, 1_000_000)),
}


def _d4rl_task(
    name: str,
    dataset: str,
    references: tuple[float, float],
    steps: int,
    widths: tuple[int, int],
    **rest: Any,
) -> Task:
    """A set that Minari's server keeps as D4RL recorded it."""
    return Task(
        name=name,
        dataset=dataset,
        remote_dataset=dataset,
        source="D4RL (Minari)",
        lesson=LESSON,
        reference_min=references[0],
        reference_max=references[1],
        steps=steps,
        megabytes=_megabytes(steps, *widths),
        **rest,
    )


def _hand_tasks(hand: str) -> Iterator[Task]:
    references, widths, counts = _HANDS[hand]
    robot = f"AdroitHand{hand.capitalize()}"
    for kind, steps in zip(("human", "cloned", "expert"), counts, strict=True):
        yield _d4rl_task(
            f"{hand}-{kind}",
            f"D4RL/{hand}/{kind}-v2",
            references,
            steps,
            widths,
            description=f"a 24-joint hand and a {hand}: {kind} demonstrations",
            environment=f"ipd_lite/{robot}-v0",
            score_definition=(
                f"0 = D4RL's random policy, 100 = D4RL's expert; {robot}-v1 with D4RL's reward "
                "sign and time limit"
            ),
            horizon=HAND_LIMITS[hand],
            termination="pen below 0.075 m" if hand == "pen" else "never",
            terminated=pen_termination if hand == "pen" else never_terminates,
            overrides=MANIPULATION,
        )


def _kitchen_task(kind: str, steps: int) -> Task:
    return _d4rl_task(
        f"kitchen-{kind}",
        f"D4RL/kitchen/{kind}-v2",
        (0.0, 4.0),
        steps,
        (81, 9),
        description=f"a robot arm and four subtasks in a kitchen: {kind} demonstrations",
        environment=f"ipd_lite/Kitchen-{kind.capitalize()}-v0",
        score_definition="25 for every finished subtask; FrankaKitchen-v1",
        horizon=280,
        termination="all four subtasks finished",
        overrides=MANIPULATION,
    )


def _ant_maze_task(name: str, description: str) -> Task:
    maze = name.split("-")[0]
    return _d4rl_task(
        f"antmaze-{name}",
        f"D4RL/antmaze/{name}-v1",
        (0.0, 1.0),
        1_000_000,
        (31, 8),
        description=description,
        environment=f"ipd_lite/AntMaze-{maze.capitalize()}-v0",
        score_definition=(
            "percentage of episodes that reach the goal; learning sees reward - 1, scores do not"
        ),
        horizon=ANT_MAZE_LIMITS[maze],
        termination="goal reached, in evaluation only",
        reward_shift=-1.0,
        position_dimensions=(0, 1),
        overrides=ANT_MAZE,
    )


def _all_tasks() -> Iterator[Task]:
    # The controllers' mean returns over evaluation starts 12345..12444; a test measures them again.
    undirected = "undirected data at full speed"
    yield _maze_task(
        "pointmaze-umaze",
        f"U-shaped maze, {undirected}: the smallest stitching problem",
        controller=-14.75,
        decisions=20_000,
    )
    yield _maze_task(
        "pointmaze-medium",
        f"medium maze, {undirected} in pieces of 20 decisions",
        controller=-29.69,
    )
    yield _maze_task(
        "pointmaze-medium-slow",
        "medium maze, hesitant data: better actions exist than the data's usual ones",
        controller=-29.69,
        speed=0.4,
    )
    yield _maze_task(
        "pointmaze-large",
        f"large maze, {undirected} in pieces of 20 decisions",
        controller=-41.35,
        overrides=FAR_GOAL,
        lesson=FAST_TARGET,
        decisions=80_000,
    )
    for robot in ENVIRONMENTS:
        yield from _locomotion_tasks(robot)
    for hand in _HANDS:
        yield from _hand_tasks(hand)
    yield _kitchen_task("complete", 4_209)
    yield _kitchen_task("partial", 136_937)
    yield _kitchen_task("mixed", 136_937)
    yield _ant_maze_task("umaze", "an ant, one start, one goal")
    yield _ant_maze_task("umaze-diverse", "an ant, any start and goal")
    yield _ant_maze_task("medium-play", "an ant, hand-picked starts and goals")
    yield _ant_maze_task("medium-diverse", "an ant, any start and goal")


TASKS: dict[str, Task] = {task.name: task for task in _all_tasks()}


def get_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        KeyError: no such task; the message names the nearest ones.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS, "ipd-lite tasks")
    return TASKS[name]


def folder(task: Task) -> Path:
    """Where Minari keeps the task's dataset (whether or not it is there)."""
    return Path(minari.storage.get_dataset_path(task.dataset))


def size(task: Task) -> str:
    """Size of the files if they are here, else the least that will come (or the time it takes)."""
    if folder(task).is_dir():
        total = sum(file.stat().st_size for file in folder(task).rglob("*") if file.is_file())
        return f"{total / 1e6:.1f} MB"
    if task.recipe:
        return "a minute"
    return f"> {task.megabytes:.3g} MB"


def describe(task: Task) -> dict[str, str]:
    """One row of `ipd-lite tasks`."""
    here = "yes" if folder(task).is_dir() else "no"
    remote = task.remote_dataset or (task.file and Path(task.file).name) or "-"
    command = task.command.replace(task.file, "FILE_OR_URL") if task.file else task.command
    return {
        "task\nenvironment\nterminates": f"{task.name}\n{task.environment}\n{task.termination}",
        "dataset: remote\ndataset: local\nhow to get it": f"{remote}\n{task.dataset}\n{command}",
        "discount/horizon\nscore 0\nscore 100": (
            f"{task.discount:g}/{task.horizon}\n{task.reference_min:.6g}\n{task.reference_max:.6g}"
        ),
        "size\nhere?": f"{size(task)}\n{here}",
    }
