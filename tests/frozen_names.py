"""Where the names of the freeze live; the only file that changes with the layout."""

from ipd_lite.data.episodes import Episode, from_episodes
from ipd_lite.settings import override
from ipd_lite.study.methods import METHODS
from ipd_lite.study.run import run
from ipd_lite.tasks.collect import record_maze
from ipd_lite.tasks.registry import get_task


def configuration(preset: str, task: str):
    config = get_task(task).config(preset)
    if task.startswith("hopper"):
        config = override(config, {"distillation.imagined_share": 0.5, "values.updates": 40})
    return config


__all__ = ["METHODS", "Episode", "configuration", "from_episodes", "get_task", "record_maze", "run"]
