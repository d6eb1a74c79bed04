"""The paper as a short list of calls, each cached in its run's folder.

    dataset -> values -> world model -> assessment -> imagination -> policy -> evaluation

Stages whose configuration, data and seed agree are trained once and shared by every method of the
same task and seed (`runs/<task>/stages/`). Killed at any moment, the same call continues and ends
in the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ipd_lite.paper.dataset import OfflineDataset
from ipd_lite.paper.distillation import make_policy, prepare_lessons, train_policy
from ipd_lite.paper.imagination import (
    Assessment,
    Continuations,
    ImaginationConfig,
    accept,
    assess,
    augment,
    choose_starts,
    imagine,
    splice,
)
from ipd_lite.paper.training import AS_WRITTEN, Snapshots
from ipd_lite.paper.transformer import TransformerPolicy
from ipd_lite.paper.values import Values, train_values
from ipd_lite.paper.world_model import (
    RewardFunction,
    WorldModel,
    calibrate_threshold,
    split_for_model,
    train_world_model,
)
from ipd_lite.rivals.cloning import ClonedPolicy, best_episodes, train_cloning
from ipd_lite.rivals.cql import SquashedGaussian, train_cql
from ipd_lite.rivals.td3bc import train_td3bc
from ipd_lite.settings import Config, as_dict
from ipd_lite.study.storage import Stage, key_of, peak_memory
from ipd_lite.tasks.load import load_task
from ipd_lite.tasks.task import Task

Rival = TypeVar("Rival", ClonedPolicy, SquashedGaussian)


FORMAT = 2
"""Part of every stage's key: raise it when a change of the code changes results."""


@dataclass
class Pipeline:
    """One task, one seed, one configuration; every stage is a property computed on first use.

    Args:
        task, seed, config, device: what to run and where.
        out: root of all runs.
        progress: show progress bars.
        data: use this dataset instead of loading the task's.
        read_only: never train; a stage that is missing is an error.
    """

    task: Task
    seed: int
    config: Config
    out: Path
    device: torch.device
    progress: bool = False
    data: OfflineDataset | None = None
    read_only: bool = False
    used: list[Stage] = field(default_factory=list)

    @cached_property
    def recorded(self) -> OfflineDataset:
        """The task's real data on the device, rewards as recorded."""
        return self.data if self.data is not None else load_task(self.task, self.device)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the data: other data, other results."""
        return self.recorded.fingerprint()

    @cached_property
    def reward_scale(self) -> float:
        """What every reward is multiplied by before learning (`data.reward_scale`).

        Raises:
            ValueError: all episodes have the same return, so there is no range to scale by.
        """
        if self.config.data.reward_scale == "none":
            return 1.0
        returns = self.recorded.episode_returns
        spread = float(returns.max() - returns.min())
        if spread == 0:
            raise ValueError(
                f"{self.task.name}: every episode has the same return; use data.reward_scale none"
            )
        return 1000.0 / spread

    @cached_property
    def dataset(self) -> OfflineDataset:
        """The data that everything learns from: the recorded one, rewards shifted and scaled."""
        scale, shift = self.reward_scale, self.task.reward_shift
        if scale == 1.0 and shift == 0.0:
            return self.recorded
        return replace(self.recorded, rewards=(self.recorded.rewards + shift) * scale)

    @property
    def reward_function(self) -> RewardFunction | None:
        """The task's known reward in the units of :attr:`dataset`."""
        known, scale, shift = self.task.reward, self.reward_scale, self.task.reward_shift
        if known is None or (scale == 1.0 and shift == 0.0):
            return known
        return lambda s, a, n: scale * (known(s, a, n) + shift)

    @property
    def widths(self) -> tuple[int, int]:
        """Entries of an observation and of an action."""
        return self.recorded.observations.shape[1], self.recorded.actions.shape[1]

    @property
    def discount(self) -> float:
        """Gamma, per decision."""
        return self.config.values.discount

    def stage(self, name: str, *parts: Any) -> Stage:
        """The shared folder of a stage whose result depends on `parts`, data and seed."""
        plain = [as_dict(p) if hasattr(p, "__dataclass_fields__") else p for p in parts]
        if self.reward_scale != 1.0:
            plain.append(self.reward_scale)
        if self.task.reward_shift:
            plain.append({"reward shift": self.task.reward_shift})
        if self.config.compute != AS_WRITTEN:  # other roundings are another result
            plain.append(as_dict(self.config.compute))
        description = {
            "stage": name,
            "task": self.task.name,
            "seed": self.seed,
            "dataset": self.fingerprint,
            "format": FORMAT,
            "parts": plain,
        }
        folder = self.out / self.task.name / "stages" / f"seed-{self.seed}"
        stage = Stage(folder / f"{name}-{key_of(description)}", description, self.progress)
        if self.read_only and not stage.done:
            raise FileNotFoundError(
                f"{stage.folder} is missing or belongs to other data; run the method again"
            )
        return stage

    # -- the stages, in the paper's order ----------------------------------------------------

    @cached_property
    def _values_parts(self) -> tuple[Any, ...]:
        return (self.config.values, self.config.data)

    @cached_property
    def values(self) -> Values:
        """Section 3.1: Q, V and the advantage-weighted policy."""
        stage = self.stage("values", *self._values_parts)
        with stage.claim():
            if not stage.done:
                values = train_values(
                    self.dataset,
                    self.config.values,
                    seed=self.seed,
                    position_dimensions=self.task.position_dimensions,
                    normalize_observations=self.config.data.normalize_observations,
                    compute=self.config.compute,
                    checkpoint=stage.checkpoint,
                )
                self._store(stage, values.state_dict())
        values = Values(
            self.config.values,
            *self.widths,
            self.task.position_dimensions,
        ).to(self.device)
        self._load(stage, values)
        return values

    @cached_property
    def world_model(self) -> WorldModel:
        """Section 3.2: the ensemble."""
        stage = self.stage("world-model", self.config.world_model)
        task = self.task
        with stage.claim():
            if not stage.done:
                model = train_world_model(
                    self.dataset,
                    self.config.world_model,
                    seed=self.seed,
                    position_dimensions=task.position_dimensions,
                    reward=self.reward_function,
                    terminated=task.terminated,
                    compute=self.config.compute,
                    checkpoint=stage.checkpoint,
                )
                self._store(stage, model.state_dict())
        model = WorldModel(
            self.config.world_model,
            *self.widths,
            task.position_dimensions,
            self.reward_function,
            task.terminated,
        ).to(self.device)
        self._load(stage, model)
        return model

    @cached_property
    def holdout(self) -> OfflineDataset:
        """Episodes that no member of the ensemble was trained on."""
        return split_for_model(self.dataset, self.config.world_model, self.seed)[1]

    @cached_property
    def threshold(self) -> Tensor:
        """Largest U that may be imagined; infinite without a gate."""
        quantile = self.config.imagination.quantile
        if quantile is None:
            return torch.tensor(torch.inf, device=self.device)
        return calibrate_threshold(self.world_model, self.holdout, quantile)

    @cached_property
    def assessment(self) -> Assessment:
        """Section 3.3: the data against the value function."""
        return assess(self.dataset, self.values, self.config.imagination, self.discount)

    @cached_property
    def _imagination_parts(self) -> tuple[Any, ...]:
        config = self.config
        return (*self._values_parts, config.world_model, config.planner, config.imagination)

    def _attempt(self, config: ImaginationConfig, threshold: Tensor) -> Continuations:
        """Continuations from this run's starts, before acceptance."""
        generator = torch.Generator(self.device).manual_seed(self.seed)
        start = choose_starts(self.dataset, self.assessment, config, generator)
        return imagine(
            self.dataset,
            start,
            self.values,
            self.world_model,
            self.config.planner,
            config,
            threshold=threshold,
            assessment=self.assessment,
            discount=self.discount,
            seed=self.seed,
            compute=self.config.compute,
            progress=self.progress,
        )

    @cached_property
    def _imagination(self) -> tuple[Continuations, dict[str, Any]]:
        stage = self.stage("imagination", *self._imagination_parts)
        config = self.config.imagination
        with stage.claim():
            if not stage.done:
                _ = (
                    self.assessment,
                    self.threshold,
                )  # train what this rests on before the clock runs
                stage.start()
                attempted = self._attempt(config, self.threshold)
                kept, book = accept(attempted, config, self.threshold)
                self._store(stage, vars(kept), ("values", "world-model"), as_dict(book))
        tensors, book_json = stage.load(self.device)
        self._use(stage, book_json)
        return Continuations(**tensors), book_json

    def attempt_without_gate(self, starts: int = 500) -> Continuations:
        """Continuations that no threshold stops, for the figure that shows why there is one."""
        config = replace(self.config.imagination, starts=starts, cumulative=False)
        return self._attempt(config, torch.tensor(torch.inf, device=self.device))

    @property
    def continuations(self) -> Continuations:
        """Section 3.3, Algorithm 1: the accepted imagined continuations."""
        return self._imagination[0]

    @property
    def bookkeeping(self) -> dict[str, Any]:
        """How many continuations were accepted and why others were not."""
        return self._imagination[1]

    @cached_property
    def augmented(self) -> OfflineDataset:
        """D_aug, or the real data alone where the imagined share is zero."""
        if self.config.distillation.imagined_share == 0:
            return self.dataset
        if not len(self.continuations):
            warnings.warn(
                f"{self.task.name}, seed {self.seed}: no imagined continuation was accepted, the "
                "policy learns from recorded data alone; raise imagination.quantile",
                stacklevel=2,
            )
        prefix = self.config.distillation.context - 1
        return augment(self.dataset, splice(self.dataset, self.continuations, prefix))

    @cached_property
    def policy(self) -> tuple[TransformerPolicy, Snapshots]:
        """Section 3.4: the distilled transformer."""
        config = self.config.distillation
        uses_values = config.condition != "return-to-go" or config.alpha > 0
        filters = config.filter_suboptimal and uses_values
        parts: list[Any] = [config]
        rests_on: list[str] = []
        if uses_values or config.imagined_share > 0:  # imagination rests on the values too
            parts += [*self._values_parts, self.config.imagination]
            rests_on += ["values"]
        if config.imagined_share > 0:
            parts += [self.config.world_model, self.config.planner]
            rests_on += ["world-model", "imagination"]
        stage = self.stage("policy", *parts)
        steps = int(self.dataset.lengths.max())
        with stage.claim():
            if not stage.done:
                augmented = self.augmented
                if uses_values:
                    _ = self.assessment
                stage.start()
                lessons = prepare_lessons(
                    augmented,
                    self.values if uses_values else None,
                    config,
                    self.discount,
                    bootstrap_steps=self.config.imagination.bootstrap_steps,
                    assessment=self.assessment if filters else None,
                )
                policy, snapshots = train_policy(
                    lessons,
                    self.values if uses_values else None,
                    config,
                    seed=self.seed,
                    episode_steps=steps,
                    compute=self.config.compute,
                    checkpoint=stage.checkpoint,
                )
                self._store(stage, joined(policy, snapshots), rests_on)
        policy = make_policy(*self.widths, config, steps).to(self.device)
        snapshots = Snapshots(policy, config.evaluations, config.updates).to(self.device)
        self._load(stage, policy, snapshots)
        return policy, snapshots

    @cached_property
    def cloned(self) -> tuple[ClonedPolicy, Snapshots]:
        """The behaviour-cloning baselines: of every episode, or of the best."""
        config, fraction = self.config.values, self.config.cloning.fraction

        def train(stage: Stage) -> tuple[torch.nn.Module, ...]:
            whole = fraction == 1
            data = self.dataset if whole else best_episodes(self.dataset, fraction)
            return train_cloning(
                data, config, seed=self.seed, evaluations=config.evaluations,
                checkpoint=stage.checkpoint,
            )  # fmt: skip

        stage = self.stage("cloning", config, *([] if fraction == 1 else [self.config.cloning]))
        return self._rival(stage, train, ClonedPolicy(config, *self.widths))

    @cached_property
    def td3bc(self) -> tuple[ClonedPolicy, Snapshots]:
        """The TD3+BC baseline's policy."""
        policy = ClonedPolicy(self.config.values, *self.widths)
        return self._actor_critic("td3bc", train_td3bc, self.config.td3bc, policy)

    @cached_property
    def cql(self) -> tuple[SquashedGaussian, Snapshots]:
        """The CQL baseline's policy."""
        policy = SquashedGaussian(self.config.values, *self.widths)
        return self._actor_critic("cql", train_cql, self.config.cql, policy)

    def _actor_critic(
        self,
        name: str,
        trainer: Callable[..., tuple[torch.nn.Module, ...]],
        own: Any,
        policy: Rival,
    ) -> tuple[Rival, Snapshots]:
        """A rival of `actor_critic.py`; `own`: its configuration beside that of the values."""
        config = self.config.values

        def train(stage: Stage) -> tuple[torch.nn.Module, ...]:
            return trainer(
                self.dataset, config, own, seed=self.seed,
                position_dimensions=self.task.position_dimensions, checkpoint=stage.checkpoint,
            )  # fmt: skip

        return self._rival(self.stage(name, config, own), train, policy)

    def _rival(
        self, stage: Stage, train: Callable[[Stage], tuple[torch.nn.Module, ...]], policy: Rival
    ) -> tuple[Rival, Snapshots]:
        """The trained weights of `policy` and its snapshots; `train` returns both, in front."""
        with stage.claim():
            if not stage.done:
                self._store(stage, joined(*train(stage)[:2]))
        config = self.config.values
        policy = policy.to(self.device)
        snapshots = Snapshots(policy, config.evaluations, config.updates).to(self.device)
        self._load(stage, policy, snapshots)
        return policy, snapshots

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Wall seconds of every stage used so far (as measured when it was trained)."""
        return {}

    @cached_property
    def memory(self) -> dict[str, dict[str, float]]:
        """Peak memory of every stage used so far, see `runs.peak_memory`."""
        return {}

    def _store(
        self,
        stage: Stage,
        tensors: Mapping[str, Tensor],
        rests_on: Sequence[str] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Store a result with its own seconds and those of the stages that it rests on."""
        below = {name: self.seconds[name] for name in rests_on}
        seconds = {**below, stage.name: stage.seconds()}
        stage.store(tensors, {**(meta or {}), "seconds": seconds, "memory": peak_memory()})

    def _use(self, stage: Stage, meta: Mapping[str, Any]) -> None:
        self.used.append(stage)
        self.seconds |= meta["seconds"]
        self.memory[stage.name] = meta.get("memory", {})

    def _load(self, stage: Stage, *modules: torch.nn.Module) -> None:
        tensors, meta = stage.load(self.device)
        self._use(stage, meta)
        if len(modules) == 1:
            modules[0].load_state_dict(tensors)
        else:
            for index, module in enumerate(modules):
                prefix = f"{index}:"
                own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
                module.load_state_dict(own)
        for module in modules:
            module.eval().requires_grad_(False)


def joined(*modules: torch.nn.Module) -> dict[str, Tensor]:
    """State of several modules in one dictionary, keys prefixed with their position."""
    return {f"{i}:{k}": v for i, m in enumerate(modules) for k, v in m.state_dict().items()}


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not available here; use --device cpu")
    return torch.device(name)
