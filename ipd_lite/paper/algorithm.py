"""The whole method as one class: a property a stage, each a sentence of the paper.

    IPD(dataset, config, seed, device).policy

trains everything in memory, with no folder, no registry and no environment. A property is computed
when it is first asked for, and asks for what it needs. `study.pipeline` stores the expensive ones
on disk by overriding one method, :meth:`IPD.keep`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ipd_lite.paper.dataset import DataConfig, OfflineDataset, reward_scale
from ipd_lite.paper.distillation import (
    DistillationConfig,
    Examples,
    make_policy,
    prepare_examples,
    train_policy,
)
from ipd_lite.paper.imagination import (
    Assessment,
    Bookkeeping,
    Continuations,
    ImaginationConfig,
    Paths,
    accept,
    assess,
    augment,
    choose_starts,
    imagine,
    imagined_paths,
    splice,
)
from ipd_lite.paper.planning import PlannerConfig
from ipd_lite.paper.support import Gate, NearestStates, nearest_states
from ipd_lite.paper.training import Checkpoint, Compute, ComputeConfig, Snapshots, require
from ipd_lite.paper.transformer import TransformerPolicy
from ipd_lite.paper.values import ValueConfig, Values, train_values
from ipd_lite.paper.world_model import (
    Known,
    WorldModel,
    WorldModelConfig,
    calibrate_threshold,
    split_for_model,
    train_world_model,
)

T = TypeVar("T")


@dataclass(frozen=True)
class IPDConfig:
    """One configuration per stage."""

    data: DataConfig = field(default_factory=DataConfig)
    values: ValueConfig = field(default_factory=ValueConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        candidates, elites = self.planner.candidates, self.world_model.elites
        expected = f"a multiple of world_model.elites ({elites})"
        require(candidates % elites == 0, "planner.candidates", candidates, expected)
        width, heads = self.distillation.width, self.distillation.heads
        expected = f"a multiple of distillation.heads ({heads})"
        require(width % heads == 0, "distillation.width", width, expected)
        least, most = self.imagination.min_length, self.imagination.length
        expected = f"at most imagination.length ({most})"
        require(least <= most, "imagination.min_length", least, expected)


class IPD:
    """Imaginary planning distillation on one dataset.

    Args:
        dataset: recorded episodes, rewards as recorded.
        config: sizes and settings of every stage.
        seed: of every random number; the same seed on the same machine gives the same bits.
        device: where everything is computed.
        known: what is known of the task besides its data.
        progress: show progress bars.
    """

    recorded: OfflineDataset

    def __init__(
        self,
        dataset: OfflineDataset,
        config: IPDConfig | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        known: Known | None = None,
        progress: bool = False,
    ) -> None:
        self.recorded = dataset.to(device)
        self.config, self.seed = config or IPDConfig(), seed
        self.device, self.known, self.progress = torch.device(device), known or Known(), progress

    def keep(
        self,
        stage: str,
        config: Sequence[Any],
        train: Callable[..., T],
        build: Callable[[], T],
        after: Sequence[str] = (),
    ) -> T:
        """The result of a stage that is worth keeping. Here: train it.

        Args:
            config: all settings that the result depends on, besides those of stages before it.
            train: computes the result, given a `checkpoint`. build: its untrained twin, which a
                stored result fills.
            after: stages that it rests on, computed before; `train` may use no other one.
        """
        for name in after:
            getattr(self, name.replace("-", "_"))
        return train(checkpoint=Checkpoint(None, progress=self.progress))

    @cached_property
    def dataset(self) -> OfflineDataset:
        """What everything learns from: the recorded data, rewards shifted and scaled."""
        scale, shift = self.reward_scale, self.known.reward_shift
        if scale == 1.0 and shift == 0.0:
            return self.recorded
        return replace(self.recorded, rewards=(self.recorded.rewards + shift) * scale)

    @cached_property
    def reward_scale(self) -> float:
        """What every reward is multiplied by."""
        return reward_scale(self.recorded, self.config.data.reward_scale, self.discount)

    @property
    def discount(self) -> float:
        """Gamma, per decision."""
        return self.config.values.discount

    @property
    def widths(self) -> tuple[int, int]:
        """Entries of an observation and of an action."""
        return self.recorded.widths

    def compute(self, config: ValueConfig | WorldModelConfig | DistillationConfig) -> Compute:
        """How a stage of this size is computed here."""
        return self.config.compute.chosen(config.updates, config.width, self.device)

    # ---- Section 3.1: a quasi-optimal value function ------------------------------------------

    @cached_property
    def values(self) -> Values:
        """Q, V and the advantage-weighted policy, by implicit Q-learning."""
        config, data, known = self.config.values, self.config.data, self.known
        train = partial(
            train_values, self.dataset, config, seed=self.seed, compute=self.compute(config),
            position_dimensions=known.position_dimensions,
            normalize_observations=data.normalize_observations,
        )  # fmt: skip
        build = partial(Values, config, *self.widths, known.position_dimensions)
        return self.keep("values", [config, data], train, build)

    # ---- Section 3.2: a world model that knows what it does not know --------------------------

    @cached_property
    def world_model(self) -> WorldModel:
        """The ensemble of Gaussian dynamics."""
        config, known = self.config.world_model, self.known.scaled(self.reward_scale)
        train = partial(
            train_world_model, self.dataset, config, known=known, seed=self.seed,
            compute=self.compute(config),
        )  # fmt: skip
        return self.keep(
            "world-model", [config], train, lambda: WorldModel(config, *self.widths, known)
        )

    @cached_property
    def holdout(self) -> OfflineDataset:
        """Episodes that no member of the ensemble was trained on."""
        return split_for_model(self.dataset, self.config.world_model, self.seed)[1]

    @cached_property
    def threshold(self) -> Tensor:
        """Largest U that may be imagined, a quantile of U over held-out pairs (inf = no gate)."""
        quantile = self.config.imagination.quantile
        if quantile is None:
            return torch.tensor(torch.inf, device=self.device)
        return calibrate_threshold(self.world_model, self.holdout, quantile)

    @cached_property
    def gate(self) -> NearestStates | None:
        """Where plans may end (our addition); None without a gate on support."""
        quantile = self.config.imagination.support_quantile
        return None if quantile is None else self.support(quantile)

    def support(self, quantile: float) -> NearestStates:
        """The gate on support at a quantile of held-out states."""
        training = split_for_model(self.dataset, self.config.world_model, self.seed)[0]
        count = self.config.imagination.neighbours
        return nearest_states(training, self.holdout, quantile, neighbours=count, seed=self.seed)

    # ---- Section 3.3: imaginary planning ------------------------------------------------------

    @cached_property
    def assessment(self) -> Assessment:
        """V(s) against the bootstrapped return of the recording: which steps are suboptimal."""
        return assess(self.dataset, self.values, self.config.imagination, self.discount)

    @property
    def attempts(self) -> Continuations:
        """Algorithm 1 from the suboptimal steps: plan, step, gate."""
        return self.attempt(self.config.imagination, self.threshold, self.gate)

    def attempt(
        self,
        config: ImaginationConfig,
        threshold: Tensor,
        gate: Gate | None = None,
        loop: Callable[..., Paths] = imagined_paths,
    ) -> Continuations:
        """Algorithm 1 with another configuration, threshold, gate or loop, before acceptance."""
        generator = torch.Generator(self.device).manual_seed(self.seed)
        start = choose_starts(self.assessment, config.starts, generator)
        return imagine(
            self.dataset, start, self.values, self.world_model, self.config.planner, config,
            threshold=threshold, gate=gate, assessment=self.assessment, discount=self.discount,
            seed=self.seed, compute=self.compute(self.config.world_model), progress=self.progress,
            loop=loop,
        )  # fmt: skip

    @cached_property
    def imagination(self) -> tuple[Continuations, Bookkeeping]:
        """What was accepted of the attempts, and the count of the rest."""
        config = self.config.imagination
        return self.keep(
            "imagination", [self.config.planner, config],
            lambda checkpoint: accept(self.attempts, config, self.threshold),
            lambda: (Continuations, Bookkeeping),  # type: ignore[return-value]
            after=("values", "world-model"),
        )  # fmt: skip

    @property
    def continuations(self) -> Continuations:
        """The accepted ones."""
        return self.imagination[0]

    @cached_property
    def augmented(self) -> OfflineDataset:
        """D_aug: the recorded episodes, then real prefixes with imagined continuations."""
        config = self.config.distillation
        if config.imagined_share == 0:
            return self.dataset
        if not len(self.continuations):
            warnings.warn(
                f"{self.recorded.name}, seed {self.seed}: no imagined continuation was accepted, "
                "the policy learns from recorded data alone; raise imagination.quantile",
                stacklevel=2,
            )
        return augment(self.dataset, splice(self.dataset, self.continuations, config.context - 1))

    # ---- Section 3.4: distillation ------------------------------------------------------------

    @property
    def guide(self) -> Values | None:
        """The values, or None where neither token nor loss uses them (Decision Transformer)."""
        return self.values if self.config.distillation.uses_values else None

    @cached_property
    def examples(self) -> Examples:
        """Every step of D_aug with its conditioning token and the weight of its regression."""
        config, guide = self.config.distillation, self.guide
        return prepare_examples(
            self.augmented, guide, config, self.discount,
            bootstrap_steps=self.config.imagination.bootstrap_steps,
            assessment=self.assessment if guide and config.filter_suboptimal else None,
        )  # fmt: skip

    @cached_property
    def policy(self) -> tuple[TransformerPolicy, Snapshots]:
        """The distilled transformer, and copies of it along its training."""
        config, steps = self.config.distillation, int(self.dataset.lengths.max())

        def build() -> tuple[TransformerPolicy, Snapshots]:
            policy = make_policy(*self.widths, config, steps)
            return policy, Snapshots(policy, config.evaluations, config.updates)

        def train(checkpoint: Checkpoint) -> tuple[TransformerPolicy, Snapshots]:
            return train_policy(
                self.examples, self.guide, config, seed=self.seed, episode_steps=steps,
                compute=self.compute(config), checkpoint=checkpoint,
            )  # fmt: skip

        settings = [config, *([self.config.imagination] * config.uses_values)]
        after = ["values"] * config.uses_values + ["imagination"] * (config.imagined_share > 0)
        return self.keep("policy", settings, train, build, after)
