"""The paper as a short list of calls, each cached in its run's folder.

    dataset -> values -> world model -> assessment -> imagination -> policy -> evaluation

Stages whose configuration, data and seed agree are trained once and shared by every method of the
same task and seed (`runs/<task>/stages/`). Killed at any moment, the same call continues and ends
in the same numbers.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ipd_lite.actor_critic import SquashedGaussian, train_cql, train_td3bc
from ipd_lite.baselines import ClonedPolicy, MazeBehaviour, best_episodes, train_cloning
from ipd_lite.config import AS_WRITTEN, Config, ImaginationConfig, as_dict, from_dict, override
from ipd_lite.data import OfflineDataset, load_task
from ipd_lite.distill import (
    TransformerActor,
    make_policy,
    prepare_lessons,
    train_policy,
)
from ipd_lite.evaluate import Actor, FunctionActor, Rollouts, rollout
from ipd_lite.imagine import (
    Assessment,
    Continuations,
    PlanningActor,
    accept,
    assess,
    augment,
    choose_starts,
    imagine,
    splice,
)
from ipd_lite.iql import Values, diagnose, train_values
from ipd_lite.nets import Snapshots
from ipd_lite.own_data import open_task
from ipd_lite.runs import (
    Stage,
    exclusive,
    key_of,
    peak_memory,
    provenance,
    reset_peak_memory,
    write_csv,
    write_json,
)
from ipd_lite.tasks import MazeRecipe, RewardFunction, Task, get_task
from ipd_lite.transformer import TransformerPolicy
from ipd_lite.world_model import (
    WorldModel,
    calibrate_threshold,
    split_for_model,
    train_world_model,
)

Rival = TypeVar("Rival", ClonedPolicy, SquashedGaussian)

FORMAT = 2
"""Part of every stage's key: raise it when a change of the code changes results."""


IPD_PAPER = "IPD, arXiv 2603.04289"


@dataclass(frozen=True)
class Method:
    """How a method differs from IPD: config fields, and which function evaluates it.

    `evaluate` returns one actor per checkpoint, or none: then the score is the data's own.
    source: where the method comes from. deviations: what we do otherwise than the source; for all
    of them sizes, learning rates and updates follow IPD's stages instead of the publication.
    amount: imagined data in multiples of the configured amount (the scaling curve).
    """

    description: str
    evaluate: Callable[[Pipeline], list[Actor]]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    source: str = IPD_PAPER
    deviations: str = ""
    amount: float = 1.0

    def configure(self, config: Config) -> Config:
        """The configuration with which this method runs.

        With another amount, starts and the odds of drawing an imagined window change by the same
        factor: every imagined window stays as likely as before, there are only more or fewer.
        """
        config = override(config, dict(self.overrides))
        share = config.distillation.imagined_share
        if self.amount == 1.0 or share == 1.0:
            return config
        odds = self.amount * share / (1 - share)
        return override(
            config,
            {
                "imagination.starts": round(self.amount * config.imagination.starts),
                "distillation.imagined_share": odds / (1 + odds),
            },
        )


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


# -- methods: what acts in the environment, one actor per snapshot, the last one last -----------


def _behaviour(pipeline: Pipeline) -> list[Actor]:
    """The maze controller; data from anywhere else speaks for itself (no actor)."""
    recipe = pipeline.task.recipe
    return [MazeBehaviour(recipe, pipeline.seed)] if isinstance(recipe, MazeRecipe) else []


def _iql(pipeline: Pipeline) -> list[Actor]:
    values = pipeline.values
    count = values.snapshots.count
    return [_SnapshotActor(values.snapshots, i, values.actor, values.policy) for i in range(count)]


def _bc(pipeline: Pipeline) -> list[Actor]:
    return _checkpoints(*pipeline.cloned)


def _td3bc(pipeline: Pipeline) -> list[Actor]:
    return _checkpoints(*pipeline.td3bc)


def _cql(pipeline: Pipeline) -> list[Actor]:
    return _checkpoints(*pipeline.cql)


def _checkpoints(policy: torch.nn.Module, snapshots: Snapshots) -> list[Actor]:
    """One actor per snapshot of a policy without memory."""
    return [_SnapshotActor(snapshots, i, policy, policy) for i in range(snapshots.count)]


class _SnapshotActor(FunctionActor):
    """Restores its snapshot into the shared network before it acts."""

    def __init__(
        self,
        snapshots: Snapshots,
        index: int,
        network: torch.nn.Module,
        function: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(function)
        self.snapshots, self.index, self.network = snapshots, index, network

    def begin(self, slots: int) -> None:
        self.snapshots.restore(self.index, self.network)


def _mpc(pipeline: Pipeline) -> list[Actor]:
    return [
        PlanningActor(
            pipeline.values, pipeline.world_model, pipeline.config.planner, pipeline.discount,
            pipeline.seed, pipeline.config.compute,
        )
    ]  # fmt: skip


class _TransformerSnapshot(TransformerActor):
    def __init__(self, snapshots: Snapshots, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshots, self.index = snapshots, index

    def begin(self, slots: int) -> None:
        self.snapshots.restore(self.index, self.policy)
        super().begin(slots)


def _transformer(pipeline: Pipeline) -> list[Actor]:
    policy, snapshots = pipeline.policy
    config = pipeline.config.distillation
    by_value = config.condition != "return-to-go"
    return [
        _TransformerSnapshot(
            snapshots, index, policy=policy, timestep=config.timestep,
            values=pipeline.values if by_value else None,
            target=None if by_value else target_return(pipeline),
            reward_scale=pipeline.reward_scale, reward_shift=pipeline.task.reward_shift,
        )
        for index in range(snapshots.count)
    ]  # fmt: skip


def target_return(pipeline: Pipeline) -> float:
    """The hand-set target: the configured return, else its level between the data's worst (0) and
    best (1) return."""
    config, data = pipeline.config.evaluation, pipeline.recorded
    if config.target is not None:
        return config.target
    returns = data.episode_returns + pipeline.task.reward_shift * data.lengths
    return float(returns.min() + config.target_level * (returns.max() - returns.min()))


RETURN_TO_GO = {"distillation.condition": "return-to-go"}
NO_IMAGINATION = {"distillation.imagined_share": 0.0}
EVERY_ACTION = {"distillation.filter_suboptimal": False}

METHODS: dict[str, Method] = {
    "behaviour": Method(
        "the policy that collected the data", _behaviour,
        source="Fu et al. 2020, D4RL",
        deviations="runs from the evaluation's starts for one episode each, not as one stream",
    ),
    "bc": Method(
        "behaviour cloning of every recorded action", _bc,
        source="Pomerleau 1988, ALVINN; as in Chen et al. 2021, Decision Transformer",
        deviations="deterministic policy, squared error",
    ),
    "bc-10": Method(
        "behaviour cloning of the episodes with the greatest returns, a tenth of the steps", _bc,
        {"cloning.fraction": 0.1},
        source="Chen et al. 2021, Decision Transformer, section 5.2 (10%BC)",
        deviations="deterministic policy, squared error; the share is fixed, not chosen per task",
    ),
    "td3bc": Method(
        "TD3+BC: squared error to the data's action minus lambda Q(s, pi(s))", _td3bc,
        source="Fujimoto & Gu 2021, A minimalist approach to offline reinforcement learning",
        deviations="LayerNorm and Fourier features in Q, cosine rate, clipped targets, as our IQL",
    ),
    "cql": Method(
        "CQL(H): soft actor-critic whose Q is lowered outside the data", _cql,
        source="Kumar et al. 2020, Conservative Q-learning for offline reinforcement learning",
        deviations="as td3bc; no cloning warm-up, one rate for all parts, fixed penalty weight",
    ),
    "dt": Method(
        "Decision Transformer: return-to-go token with a hand-set target, no Q term",
        _transformer,
        {**RETURN_TO_GO, **NO_IMAGINATION, **EVERY_ACTION, "distillation.alpha": 0.0},
        source="Chen et al. 2021, Decision Transformer",
        deviations=(
            "the transformer of IPD (one token per step in the lesson preset); the target is the "
            "best return in the data, not chosen per task"
        ),
    ),
    "qt": Method(
        "QT: return-to-go token and the value-guided term, no imagined data",
        _transformer,
        {**RETURN_TO_GO, **NO_IMAGINATION, **EVERY_ACTION},
        source="Hu et al. 2024, Q-value regularized transformer, arXiv 2405.17098",
        deviations=(
            "Q is IQL's, trained before and frozen, and divided by mean |Q - V| as in IPD; one "
            "alpha for all tasks; acts with one target instead of the best of 50 candidates by Q"
        ),
    ),
    "iql": Method(
        "IQL's advantage-weighted policy (the same values that IPD uses)", _iql,
        source="Kostrikov et al. 2021, Offline reinforcement learning with implicit Q-learning",
        deviations="five Q and V networks and their means in the lesson preset; see iql.py",
    ),
    "mpc": Method(
        "the planner acting directly in the environment", _mpc,
        source="Sikchi et al. 2020, LOOP; Zhan et al. 2021, MOPP (the nearest relatives)",
        deviations="IPD's planner, values and ensemble; no behaviour-cloned proposals",
    ),
    "ipd-noaug": Method("IPD without imagined data, all else equal", _transformer, NO_IMAGINATION),
    "ipd-greedy": Method(
        "IPD with greedy-Q rollouts instead of MPC", _transformer, {"planner.kind": "greedy-q"}
    ),
    "ipd-random": Method(
        "IPD with uniformly random imagined actions instead of MPC", _transformer,
        {"planner.kind": "random"},
    ),
    "ipd-nogate": Method(
        "IPD without the uncertainty gate: every imagined step is kept", _transformer,
        {"imagination.quantile": None},
    ),
    "ipd-noq": Method(
        "IPD without the value-guided term (alpha = 0)", _transformer, {"distillation.alpha": 0.0}
    ),
    "ipd-rtg": Method(
        "IPD with return-to-go tokens and a hand-set target instead of V(s), all else equal",
        _transformer, RETURN_TO_GO,
        deviations="set the target with evaluation.target_level or evaluation.target",
    ),
    **{
        f"ipd-x{amount:g}": Method(
            f"IPD with {amount:g} times the imagined data (0 is ipd-noaug, 1 is ipd)",
            _transformer, amount=amount,
            deviations="the paper's amounts are unknown; see Method.configure",  # PAPER SILENT
        )
        for amount in (0.125, 0.25, 0.5, 2.0, 4.0)
    },
    "ipd": Method("the paper's method", _transformer),
}  # fmt: skip


def get_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        KeyError: no such method; the message lists those that exist.
    """
    if name not in METHODS:
        raise KeyError(f"unknown method {name!r}: expected one of {', '.join(METHODS)}")
    return METHODS[name]


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


def label_of(method: str, variant: str = "") -> str:
    """How a method with changed fields is called in folders, tables and figures."""
    return f"{method}@{variant}" if variant else method


def run_folder(out: Path, task: str, label: str, seed: int) -> Path:
    """Where a run's files lie."""
    return out / task / label / f"seed-{seed}"


def run(
    task: str | Task,
    method_name: str,
    seed: int,
    config: Config,
    *,
    out: Path,
    variant: str = "",
    device: str = "auto",
    progress: bool = False,
    data: OfflineDataset | None = None,
) -> pd.DataFrame:
    """Train what is missing, evaluate, and return the rows of scores.csv.

    Files in `out/<task>/<method>/seed-<n>/`: config.json, scores.csv ("last" and "best" rows),
    episodes.csv (every episode of every checkpoint), record.json (everything about the unit). Two
    processes that want the same run take turns, and the second finds it done.

    Args:
        variant: name of changed fields, for a folder of its own: `<method>@<variant>`.
        task: a registered name, or a task such as `own_data.open_task` makes. Where it has no
            environment, the method is trained, a warning says why there are no scores, and the
            returned frame is empty.

    Raises:
        ValueError: the folder holds a run with another configuration.
    """
    if isinstance(task, str):
        task = get_task(task)
    method = get_method(method_name)
    config = method.configure(config)
    check(config)
    where = choose_device(device)
    folder = run_folder(out, task.name, label_of(method_name, variant), seed)
    pipeline = Pipeline(task, seed, config, out, where, progress, data)
    identity = {
        "task": task.name,
        "method": method_name,
        "variant": variant,
        "seed": seed,
        "config": as_dict(config),
        "dataset": pipeline.fingerprint,
        "environment": task.environment,
        "format": FORMAT,
    }
    if task.opened:
        identity["opened"] = dict(task.opened)
    with exclusive(folder):
        if (folder / "scores.csv").exists():
            if same_run(folder, identity):
                return read_scores(folder / "scores.csv")
            raise ValueError(
                f"{folder} holds a run with another configuration or other data; "
                "choose another --out, or delete that folder"
            )
        begun = time.perf_counter()
        write_json(folder / "config.json", {**identity, **provenance()})
        actors = method.evaluate(pipeline)
        started = time.perf_counter()
        reset_peak_memory()
        rollouts = [] if actors and not task.environment else _rollouts(pipeline, actors)
        pipeline.seconds["evaluation"] = round(time.perf_counter() - started, 3)
        pipeline.memory["evaluation"] = peak_memory()
        if pipeline.used:
            write_csv(folder / "log.csv", _logs(pipeline.used))
            shutil.copyfile(pipeline.used[-1].result, folder / "policy.safetensors")
        scores = pd.DataFrame()
        if rollouts:
            write_csv(folder / "episodes.csv", _episode_rows(rollouts))
            scores = _score_rows(identity, task, rollouts, sum(pipeline.seconds.values()))
        record = {**identity, **provenance(), **_record(pipeline, scores, rollouts)}
        record["unit_seconds"] = round(time.perf_counter() - begun, 3)
        write_json(folder / "record.json", record)
        if not rollouts:
            warnings.warn(
                f"{task.name}: trained, but not evaluated: {task.no_environment}", stacklevel=2
            )
            return scores
        write_csv(folder / "scores.csv", scores)
        return read_scores(folder / "scores.csv")


def read_scores(file: Path) -> pd.DataFrame:
    """A scores file; those from before variants existed have none."""
    # As text: a column of empty cells would become NaN.
    scores = pd.read_csv(file, dtype={"variant": str})
    if "variant" not in scores:
        scores.insert(2, "variant", "")
    return scores.fillna({"variant": ""})


def same_run(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the folder's run has this identity (its entries alone are compared).

    Fields that did not exist yet when it ran count as having their defaults.
    """
    found = {"variant": "", **json.loads((folder / "config.json").read_text())}
    found["config"] = as_dict(from_dict(Config, found["config"]))
    wanted = json.loads(json.dumps(dict(identity)))
    return all(found.get(name) == value for name, value in wanted.items())


def evaluate_again(
    folder: Path, episodes: int, *, device: str = "auto", progress: bool = False
) -> pd.DataFrame:
    """Roll a finished run's checkpoints out again; nothing is trained, nothing is overwritten.

    Raises:
        FileNotFoundError: the folder holds no finished run.
    """
    if not (folder / "scores.csv").exists():
        raise FileNotFoundError(
            f"{folder} holds no finished run; expected config.json and scores.csv, "
            "as `ipd-lite run` leaves them in runs/TASK/METHOD/seed-N"
        )
    identity = json.loads((folder / "config.json").read_text())
    pipeline = reopen(folder, device=device, progress=progress)
    config = pipeline.config
    pipeline.config = replace(config, evaluation=replace(config.evaluation, episodes=episodes))
    task, method = pipeline.task, get_method(identity["method"])
    rollouts = _rollouts(pipeline, method.evaluate(pipeline))
    return _score_rows(identity, task, rollouts, sum(pipeline.seconds.values()))


def reopen(folder: Path, *, device: str = "auto", progress: bool = False) -> Pipeline:
    """The stages of a run from its folder, as they were trained; nothing is trained anew."""
    identity = json.loads((folder / "config.json").read_text())
    config: Config = from_dict(Config, identity["config"])
    task = open_task(**identity.get("opened", {"task": identity["task"]}))
    where = choose_device(device)
    return Pipeline(
        task, identity["seed"], config, folder.parents[2], where, progress, read_only=True
    )


def recorded_episodes(data: OfflineDataset) -> Rollouts:
    """The data's own episodes in place of rollouts (nothing is known of their success)."""
    returns = data.episode_returns.cpu().numpy().astype(np.float64)
    return Rollouts(returns, data.lengths.cpu().numpy(), np.full(len(returns), np.nan))


def _rollouts(pipeline: Pipeline, actors: Sequence[Actor]) -> list[Rollouts]:
    """Every checkpoint in the environment; without one, the recorded episodes."""
    if not actors:
        return [recorded_episodes(pipeline.recorded)]
    return [
        rollout(
            pipeline.task, actor, pipeline.config.evaluation,
            device=pipeline.device, progress=pipeline.progress,
        )
        for actor in actors
    ]  # fmt: skip


def check(config: Config) -> None:
    """Rules between stages.

    Raises:
        ValueError: the planner's candidates cannot be split evenly over the elites.
    """
    candidates, elites = config.planner.candidates, config.world_model.elites
    if candidates % elites:
        raise ValueError(
            f"planner.candidates = {candidates} must be a multiple of world_model.elites = {elites}"
        )


def _logs(stages: Sequence[Stage]) -> pd.DataFrame:
    """The training logs of all stages that a run used, one after the other."""
    parts = [
        pd.read_csv(stage.log).assign(stage=stage.name) for stage in stages if stage.log.exists()
    ]
    return pd.concat(parts) if parts else pd.DataFrame(columns=["stage", "step"])


def _record(pipeline: Pipeline, scores: pd.DataFrame, rollouts: list[Rollouts]) -> dict[str, Any]:
    """Scores, per-episode returns, seconds and memory per stage, diagnostics of the stages."""
    used = set(pipeline.seconds)
    record: dict[str, Any] = {
        "seconds": pipeline.seconds,
        "device": str(pipeline.device),
        "horizon": pipeline.config.planner.horizon,
    }
    if rollouts:
        best = int(np.argmax([r.returns.mean() for r in rollouts]))
        record["scores"] = dict(zip(scores["checkpoint"], scores["score"], strict=True))
        record["returns"] = {
            "last": rollouts[-1].returns.tolist(), "best": rollouts[best].returns.tolist()
        }  # fmt: skip
    if "values" in used:
        record["values"] = vars(diagnose(pipeline.values, pipeline.dataset, pipeline.discount))
    if "world-model" in used:
        record["world model"] = {
            "holdout error per member": pipeline.world_model.holdout_error.tolist(),
            "elites": pipeline.world_model.elites.tolist(),
        }
    if "imagination" in used:
        record["imagination"] = pipeline.bookkeeping
    record["stages"] = [stage.folder.name for stage in pipeline.used]
    record["memory"] = pipeline.memory
    return record


def _episode_rows(rollouts: list[Rollouts]) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "checkpoint": index + 1,
                "episode": np.arange(len(r.returns)),
                "return": r.returns,
                "steps": r.steps,
                "success": r.success,
            }
        )
        for index, r in enumerate(rollouts)
    ]
    return pd.concat(parts)


def _score_rows(
    identity: Mapping[str, Any], task: Task, rollouts: list[Rollouts], seconds: float
) -> pd.DataFrame:
    means = [float(r.returns.mean()) for r in rollouts]
    rows = []
    for label, index in (("last", len(means) - 1), ("best", int(np.argmax(means)))):
        success = rollouts[index].success
        rows.append(
            {
                "task": identity["task"],
                "method": identity["method"],
                "variant": identity.get("variant", ""),
                "seed": identity["seed"],
                "checkpoint": label,
                "episodes": len(rollouts[index].returns),
                "return_mean": round(means[index], 4),
                "score": round(float(task.normalized_score(means[index])), 3),
                "success": float("nan") if np.isnan(success).all() else float(np.nanmean(success)),
                "wall_seconds": round(seconds, 1),
            }
        )
    return pd.DataFrame(rows)
