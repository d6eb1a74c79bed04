"""The paper and its rivals for one task and seed, every stage stored in a folder.

    dataset -> values -> world model -> assessment -> imagination -> policy -> evaluation

Stages whose configuration, data and seed agree are trained once and shared by every method of the
same task and seed (`runs/<task>/stages/`). Killed at any moment, the same call continues and ends
in the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from ipd_lite.paper.algorithm import IPD
from ipd_lite.paper.ask import excess_of, quantile_of
from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.imagination import Continuations
from ipd_lite.paper.training import Snapshots
from ipd_lite.rivals.cloning import ClonedPolicy, best_episodes, train_cloning
from ipd_lite.rivals.cql import SquashedGaussian, train_cql
from ipd_lite.rivals.rebrac import train_rebrac
from ipd_lite.rivals.td3bc import train_td3bc
from ipd_lite.settings import Config, as_dict
from ipd_lite.study.storage import (
    Stage,
    computed_otherwise,
    key_of,
    pack,
    peak_memory,
    unpack,
)
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.task import Task

T = TypeVar("T")
Rival = TypeVar("Rival", ClonedPolicy, SquashedGaussian)

FORMAT = 3
"""Part of every stage's key: raise it when a change of the code changes results."""


class Pipeline(IPD):
    """One task, one seed, one configuration; every stage is a property computed on first use.

    Args:
        task, seed, config, device: what to run and where.
        out: root of all runs.
        progress: show progress bars.
        data: use this dataset instead of loading the task's.
        read_only: never train; a stage that is missing is an error.
    """

    config: Config

    def __init__(
        self,
        task: Task,
        seed: int,
        config: Config,
        out: Path,
        device: torch.device,
        progress: bool = False,
        data: OfflineDataset | None = None,
        read_only: bool = False,
    ) -> None:
        self.task, self.seed, self.config, self.out = task, seed, config, out
        self.device, self.progress, self.data, self.read_only = device, progress, data, read_only
        self.known = task.known
        self.stages: dict[str, Stage] = {}
        """Every stage used so far, by name, in the order of use."""
        self.seconds: dict[str, float] = {}
        """Wall seconds of every stage used so far (as measured when it was trained)."""
        self.memory: dict[str, dict[str, float]] = {}
        """Peak memory of every stage used so far, see `storage.peak_memory`."""
        self._training = ""

    def variant(self, config: Config) -> Pipeline:
        """The same task, seed and data with another configuration."""
        return Pipeline(
            self.task, self.seed, config, self.out, self.device, self.progress, self.recorded
        )

    @cached_property
    def recorded(self) -> OfflineDataset:  # type: ignore[override]
        """The task's real data on the device, rewards as recorded."""
        return self.data.to(self.device) if self.data else load_task(self.task, self.device)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the data: other data, other results."""
        return self.recorded.fingerprint()

    @property
    def bookkeeping(self) -> dict[str, Any]:
        """How many continuations were accepted and why others were not."""
        return as_dict(self.imagination[1])

    @property
    def used(self) -> list[Stage]:
        """The stages used so far; the last one is what acts."""
        return list(self.stages.values())

    def keep(
        self,
        stage: str,
        config: Sequence[Any],
        train: Callable[..., T],
        build: Callable[[], T],
        after: Sequence[str] = (),
    ) -> T:
        """The stored result of a stage, trained first where it is missing.

        Its key is the hash of its own configuration and of the keys of the stages before it.
        """
        assert not self._training, f"{self._training} uses {stage} without saying that it is after"
        for name in after:
            getattr(self, name.replace("-", "_"))
        folder = self._stage(stage, config, after)
        with folder.claim():
            if not folder.done:
                self._training = stage
                try:
                    tensors, parts = pack(train(checkpoint=folder.checkpoint))
                finally:
                    self._training = ""
                costs = {"seconds": folder.seconds(), "memory": peak_memory()}
                folder.store(tensors, {"parts": parts, **costs})
        tensors, meta = folder.load(self.device)
        self.stages[stage] = folder
        self.seconds[stage], self.memory[stage] = meta["seconds"], meta["memory"]
        try:
            return unpack(build(), tensors, meta["parts"], self.device)
        except (RuntimeError, TypeError, KeyError) as error:
            why = str(error).splitlines()[0]
            raise ValueError(
                f"{folder.result} holds another stage ({why}); delete it and run again"
            ) from error

    def _stage(self, name: str, config: Sequence[Any], after: Sequence[str]) -> Stage:
        """The shared folder of a stage."""
        description = {
            "stage": name,
            "task": self.task.name,
            "seed": self.seed,
            "dataset": self.fingerprint,
            "rewards": [self.reward_scale, self.known.reward_shift],
            "format": FORMAT,
            "parts": [as_dict(part) for part in config],
            "compute": [self.compute(part) for part in config if hasattr(part, "updates")],
            "after": [self.stages[before].folder.name for before in after],
        }
        root = self.out / self.task.name / "stages" / f"seed-{self.seed}"
        stage = Stage(root / f"{name}-{key_of(description)}", description, self.progress)
        if self.read_only and not stage.done:
            if (folder := computed_otherwise(root, description)) is not None:
                return Stage(folder, description, self.progress)
            raise FileNotFoundError(
                f"{stage.folder} is missing or belongs to other data; run the method again"
            )
        return stage

    def attempt_without_gate(self, starts: int = 500) -> Continuations:
        """Continuations that no threshold stops, for the figure that shows why there is one."""
        config = replace(self.config.imagination, starts=starts, cumulative=False)
        return self.attempt(config, torch.tensor(torch.inf, device=self.device))

    @cached_property
    def more(self) -> float:
        """What is asked for beyond V(s) at inference, in units of return (see `paper/ask.py`)."""
        config = self.config.evaluation
        if config.ask == "value":
            return 0.0
        return float(quantile_of(excess_of(self.assessment), config.ask_quantile))

    # ---- the rivals ----------------------------------------------------------------------------

    @cached_property
    def cloned(self) -> tuple[ClonedPolicy, Snapshots]:
        """Behaviour cloning of every episode, or of the best."""
        config, share = self.config.values, self.config.cloning
        train = partial(
            train_cloning,
            best_episodes(self.dataset, share.fraction),
            config,
            seed=self.seed,
            evaluations=config.evaluations,
        )
        return self._rival("cloning", share, train, ClonedPolicy)

    @cached_property
    def td3bc(self) -> tuple[ClonedPolicy, Snapshots]:
        """The TD3+BC baseline's policy."""
        own = self.config.td3bc
        return self._rival("td3bc", own, self._actor_critic(train_td3bc, own), ClonedPolicy)

    @cached_property
    def cql(self) -> tuple[SquashedGaussian, Snapshots]:
        """The CQL baseline's policy."""
        own = self.config.cql
        return self._rival("cql", own, self._actor_critic(train_cql, own), SquashedGaussian)

    @cached_property
    def rebrac(self) -> tuple[ClonedPolicy, Snapshots]:
        """The ReBRAC baseline's policy."""
        own = self.config.rebrac
        return self._rival("rebrac", own, self._actor_critic(train_rebrac, own), ClonedPolicy)

    def _actor_critic(
        self, trainer: Callable[..., tuple[Any, ...]], own: Any
    ) -> Callable[..., Any]:
        """The training of a rival with a critic: its policy and snapshots, without the critic."""
        positions = self.known.position_dimensions
        train = partial(
            trainer,
            self.dataset,
            self.config.values,
            own,
            seed=self.seed,
            position_dimensions=positions,
        )
        return lambda checkpoint: train(checkpoint=checkpoint)[:2]

    def _rival(
        self,
        name: str,
        own: Any,
        train: Callable[..., tuple[Rival, Snapshots]],
        kind: Callable[..., Rival],
    ) -> tuple[Rival, Snapshots]:
        """A policy without memory; sizes and updates are those of the values."""
        config = self.config.values

        def build() -> tuple[Rival, Snapshots]:
            policy = kind(config, *self.widths)
            return policy, Snapshots(policy, config.evaluations, config.updates)

        return self.keep(name, [config, own], train, build)


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: it is no device of ours, or one that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device = {name!r}: expected auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not available here; use --device cpu")
    return device
