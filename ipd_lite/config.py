"""One frozen dataclass per stage of the paper, and three presets of all of them together.

`smoke` runs every stage in seconds (tests), `lesson` in a few minutes on a laptop CPU (the course),
`paper` has published sizes and wants a GPU. A task may override single fields (`tasks.py`), and the
command line may override any of them (`--values.expectile 0.8`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

Preset = Literal["smoke", "lesson", "paper"]
PRESETS: tuple[Preset, ...] = ("smoke", "lesson", "paper")


def _require(condition: bool, field_name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{field_name} = {value!r}: expected {expected}")


@dataclass(frozen=True)
class DataConfig:
    """How rewards and observations enter the networks (both change IQL's results)."""

    normalize_observations: bool = True
    """Of Q, V and IQL's policy; every other network always normalizes its inputs."""
    reward_scale: Literal["none", "return range"] = "none"
    """"return range": multiply rewards by 1000 / (best - worst episode return), as IQL on Gym."""


@dataclass(frozen=True)
class ValueConfig:
    """Section 3.1: implicit Q-learning."""

    updates: int = 10_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.05
    """Fraction of the learning rate at the end of the cosine schedule (1 = constant)."""
    width: int = 64
    depth: int = 2
    layer_norm: bool = True
    """LayerNorm without affine parameters in Q and V: steadier bootstrapping."""
    fourier_features: int = 32
    """Random Fourier features of the task's position coordinates in Q and V (0 = none)."""
    fourier_scale: float = 2.0
    expectile: float = 0.9
    """tau: 0.5 averages over the data's actions, towards 1 approaches the best of them."""
    huber: float | None = None
    """Threshold where the expectile loss turns from squared to linear; None = always squared."""
    temperature: float = 5.0
    """beta: weight of the advantage in the policy, exp(beta * A)."""
    max_weight: float = 100.0
    discount: float = 0.99
    target_rate: float = 0.02
    q_networks: int = 5
    v_networks: int = 5
    q_reduction: Literal["min", "mean"] = "mean"  # PAPER SILENT
    """Twin Q and "min" are published; five of each and their means vary less between seeds."""
    clip_targets: bool = True
    """Keep bootstrapped targets inside the bounds that reward and discount imply."""
    actor_dropout: float = 0.0
    evaluations: int = 3
    """Copies of the policy kept along the training ("last" and "best" columns)."""

    def __post_init__(self) -> None:
        _require(0 < self.expectile < 1, "values.expectile", self.expectile, "0 < expectile < 1")
        _require(0 <= self.discount < 1, "values.discount", self.discount, "0 <= discount < 1")
        _require(self.q_networks >= 1, "values.q_networks", self.q_networks, "at least 1")
        _require(self.v_networks >= 1, "values.v_networks", self.v_networks, "at least 1")
        _require(self.updates >= 1, "values.updates", self.updates, "at least 1")
        _require(self.evaluations >= 1, "values.evaluations", self.evaluations, "at least 1")


@dataclass(frozen=True)
class WorldModelConfig:
    """Section 3.2: ensemble of Gaussian dynamics and its uncertainty."""

    members: int = 5
    elites: int = 5
    width: int = 64
    depth: int = 3
    updates: int = 6_000
    batch_size: int = 256
    learning_rate: float = 3e-3
    final_learning_rate: float = 0.05
    """Fraction of the learning rate at the end of the cosine schedule (1 = constant)."""
    weight_decay: float = 2.5e-5
    variance_weight: float = 0.5  # PAPER SILENT
    """beta of beta-NLL: 0 is the plain Gaussian likelihood, 1 the squared error for the mean."""
    variance_floor: float = 0.01  # PAPER SILENT
    """Added to every variance in U, in units of the data's variance of the change: members that
    differ by less than about a tenth of a usual step count as agreeing."""
    fourier_features: int = 32
    fourier_scale: float = 2.0
    holdout: float = 0.1
    """Fraction of episodes kept for early stopping, elites and the uncertainty threshold."""
    evaluate_every: int = 250
    """Updates between two looks at the holdout."""
    patience: int = 10
    """Looks without an improvement of 1 % after which a member stops learning."""
    known_reward: bool = True
    known_termination: bool = True
    """Use the task's reward and termination functions where it has them, else learn heads."""
    divergence: Literal["dual", "primal"] = "dual"  # PAPER SILENT

    def __post_init__(self) -> None:
        _require(self.members >= 2, "world_model.members", self.members, "at least 2")
        _require(
            1 <= self.elites <= self.members,
            "world_model.elites",
            self.elites,
            f"between 1 and world_model.members ({self.members})",
        )
        _require(0 < self.holdout < 1, "world_model.holdout", self.holdout, "0 < holdout < 1")


@dataclass(frozen=True)
class PlannerConfig:
    """Section 3.3: model-predictive control with a terminal value."""

    kind: Literal["shooting", "mppi", "cem", "greedy-q", "random"] = "shooting"
    candidates: int = 30
    horizon: int = 5
    first_noise: float = 0.5
    """Standard deviation of the noise on a candidate's first action (action range is [-1, 1])."""
    later_noise: float = 0.1
    top: int = 5  # PAPER SILENT
    """The plan is the mean first action of this many best candidates (shooting, cem)."""
    temperature: float = 1.0
    """mppi: softmax temperature in units of the candidates' score deviation."""
    rounds: int = 3
    """cem, mppi: refinement rounds."""
    smoothing: float = 0.1
    """cem, mppi: share of the previous round's mean and deviation that is kept."""

    def __post_init__(self) -> None:
        _require(self.horizon >= 1, "planner.horizon", self.horizon, "at least 1")
        _require(
            1 <= self.top <= self.candidates,
            "planner.top",
            self.top,
            f"between 1 and planner.candidates ({self.candidates})",
        )


@dataclass(frozen=True)
class ImaginationConfig:
    """Section 3.3, Algorithm 1: where to start, when to stop, what to keep."""

    starts: int = 6_000
    """Imagined continuations; scaled by the augmentation-amount ablation."""
    start_choice: Literal["suboptimal", "uniform"] = "suboptimal"
    suboptimal_fraction: float = 0.5  # PAPER SILENT
    """Steps whose shortfall lies in this upper fraction of the data count as suboptimal."""
    bootstrap_steps: int = 5
    """Steps of the bootstrapped return that V is compared with."""
    length: int = 15
    """Longest imagined continuation, in steps."""
    min_length: int = 2
    quantile: float | None = 0.9  # PAPER SILENT
    """Threshold of U: this quantile over held-out real (s, a); None = no gate (an ablation)."""
    cumulative: bool = False
    """Gate the running sum of U (threshold times the steps so far) instead of each step's U."""
    improvement: float = 0.0
    """A continuation is kept only if its bootstrapped return beats the real one by this much."""
    require_improvement: bool = False

    def __post_init__(self) -> None:
        gate = self.quantile is None or 0 < self.quantile <= 1
        _require(gate, "imagination.quantile", self.quantile, "0 < q <= 1, or None for no gate")
        _require(self.length >= 1, "imagination.length", self.length, "at least 1")
        _require(self.min_length >= 1, "imagination.min_length", self.min_length, "at least 1")


@dataclass(frozen=True)
class DistillationConfig:
    """Section 3.4: the transformer policy and its value-guided loss."""

    context: int = 5
    """K: steps of context."""
    width: int = 64
    layers: int = 1
    heads: int = 4
    dropout: float = 0.0
    fused_tokens: bool = True
    """One token per step (condition, observation, previous action summed) instead of three."""
    timestep: Literal["window", "episode"] = "window"
    """Embed the position inside the context window, or the step of the episode."""
    updates: int = 3_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.05
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    ema: float = 0.995
    """Decay of the averaged weights that act at evaluation (0 = no averaging)."""
    # PAPER SILENT: what the token is in training, Q's scale, and which actions are regressed on.
    condition: Literal["value", "bootstrapped", "maximum", "return-to-go"] = "bootstrapped"
    """Conditioning token in training; V(s) at inference (return-to-go: a hand-set target)."""
    alpha: float = 1.0
    q_scale: Literal["advantage", "magnitude", "none"] = "advantage"
    """Divide Q by the batch mean of |Q - V| or of |Q|."""
    filter_suboptimal: bool = True
    """Suboptimal real steps get no action regression, only the Q term."""
    imagined_share: float = 0.5
    """Share of a batch's windows drawn from imagined continuations."""
    evaluations: int = 3
    """Checkpoints that are evaluated, the last one included ("last" and "best" columns)."""

    def __post_init__(self) -> None:
        _require(self.context >= 1, "distillation.context", self.context, "at least 1")
        _require(
            0 <= self.imagined_share <= 1,
            "distillation.imagined_share",
            self.imagined_share,
            "0 <= share <= 1",
        )
        _require(self.evaluations >= 1, "distillation.evaluations", self.evaluations, "at least 1")


@dataclass(frozen=True)
class EvaluationConfig:
    """Rollouts in the real environment; used to report, never to train."""

    episodes: int = 100
    slots: int = 25
    """Environments stepped side by side with one batched policy."""
    seed: int = 12345
    """Episode i starts from seed + i: every method and seed meets the same starts."""
    target: float | None = None
    """Hand-set return-to-go target of methods that need one; None = by `target_level`."""
    target_level: float = 1.0
    """0 = the worst return in the data, 1 = the best; beyond 1 asks for more than was ever seen."""


@dataclass(frozen=True)
class CloningConfig:
    """Baseline: behaviour cloning of the best episodes; sizes and updates are those of `values`."""

    fraction: float = 1.0
    """Share of the data's steps, taken from the episodes with the greatest returns."""

    def __post_init__(self) -> None:
        _require(0 < self.fraction <= 1, "cloning.fraction", self.fraction, "0 < fraction <= 1")


@dataclass(frozen=True)
class TD3BCConfig:
    """Baseline: TD3+BC (Fujimoto & Gu 2021); sizes, rates and updates are those of `values`."""

    alpha: float = 2.5
    """Weight of Q against cloning, divided by the batch mean of |Q|."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's action (range [-1, 1])."""
    noise_clip: float = 0.5
    policy_delay: int = 2
    """Updates of Q per update of the policy and of the target networks."""

    def __post_init__(self) -> None:
        _require(self.policy_delay >= 1, "td3bc.policy_delay", self.policy_delay, "at least 1")


@dataclass(frozen=True)
class CQLConfig:
    """Baseline: CQL (Kumar et al. 2020); sizes, rates and updates are those of `values`."""

    weight: float = 5.0
    """alpha of the conservative penalty."""
    samples: int = 4
    """Actions per state from each of: uniform, the policy at s, the policy at s'. Published: 10."""

    def __post_init__(self) -> None:
        _require(self.samples >= 1, "cql.samples", self.samples, "at least 1")


@dataclass(frozen=True)
class ComputeConfig:
    """How training steps are computed: the same algorithm, other roundings, another speed."""

    compile: bool = False
    """torch.compile the losses. Pays after some 10,000 updates of IQL; the rest gains little."""
    autocast: bool = False
    """bfloat16 in the matrix products of losses and planning (values end in float32); pays only
    where the hardware multiplies it."""


AS_WRITTEN = ComputeConfig()
"""Every operation by itself, in float32."""


@dataclass(frozen=True)
class Config:
    """All stages together; one run = one task + one method + one seed + this."""

    preset: Preset = "lesson"
    data: DataConfig = field(default_factory=DataConfig)
    values: ValueConfig = field(default_factory=ValueConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    cloning: CloningConfig = field(default_factory=CloningConfig)
    td3bc: TD3BCConfig = field(default_factory=TD3BCConfig)
    cql: CQLConfig = field(default_factory=CQLConfig)


def preset(name: str) -> Config:
    """The preset called `name`.

    Raises:
        ValueError: the name is not one of `PRESETS`.
    """
    lesson = Config()
    if name == "lesson":
        return lesson
    if name == "smoke":
        return override(
            replace(lesson, preset="smoke"),
            {
                "values.updates": 60,
                "values.width": 16,
                "values.fourier_features": 8,
                "values.q_networks": 2,
                "values.v_networks": 2,
                "values.evaluations": 2,
                "world_model.updates": 60,
                "world_model.width": 16,
                "world_model.members": 3,
                "world_model.elites": 3,
                "world_model.evaluate_every": 20,
                "planner.candidates": 6,
                "planner.horizon": 2,
                "planner.top": 2,
                "imagination.starts": 60,
                "imagination.length": 4,
                "distillation.context": 3,
                "distillation.width": 16,
                "distillation.updates": 40,
                "distillation.batch_size": 16,
                "distillation.evaluations": 2,
                "evaluation.episodes": 4,
                "evaluation.slots": 4,
                "cql.samples": 2,
            },
        )
    if name == "paper":
        return override(
            replace(lesson, preset="paper"),
            {
                "compute.compile": True,
                "values.updates": 1_000_000,
                "values.width": 256,
                "values.q_networks": 2,
                "values.v_networks": 1,
                "values.q_reduction": "min",
                "values.learning_rate": 3e-4,
                "values.final_learning_rate": 0.0,
                "values.target_rate": 0.005,
                "world_model.updates": 100_000,
                "world_model.learning_rate": 1e-3,
                "world_model.evaluate_every": 1_000,
                "world_model.members": 7,
                "world_model.elites": 5,
                "world_model.width": 200,
                "world_model.depth": 4,
                "planner.candidates": 65,
                "imagination.starts": 100_000,
                "distillation.context": 20,
                "distillation.width": 256,
                "distillation.layers": 4,
                "distillation.dropout": 0.1,
                "distillation.updates": 100_000,
                "distillation.batch_size": 256,
                "distillation.learning_rate": 3e-4,
                "distillation.evaluations": 10,
                "cql.samples": 10,
            },
        )
    raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")


T = TypeVar("T")


def override(config: T, changes: dict[str, Any]) -> T:
    """A copy of a (nested) dataclass with dotted fields changed.

    Raises:
        KeyError: a field does not exist; the message lists those that do.
    """
    direct: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    known = [f.name for f in fields(config)]  # type: ignore[arg-type]
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if head not in known:
            raise KeyError(f"unknown config field {name!r}: expected one of {', '.join(known)}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = value
    for head, inner in nested.items():
        direct[head] = override(direct.get(head, getattr(config, head)), inner)
    return replace(config, **direct)  # type: ignore[type-var]


def as_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values that JSON can hold."""
    assert is_dataclass(config) and not isinstance(config, type)
    return asdict(config)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """The inverse of :func:`as_dict` for a (nested) dataclass type."""
    template = kind()
    changes: dict[str, Any] = {}
    for item in fields(template):  # type: ignore[arg-type]
        if item.name not in values:
            continue
        current, value = getattr(template, item.name), values[item.name]
        if is_dataclass(current):
            value = from_dict(type(current), value)
        elif isinstance(current, tuple):
            value = tuple(value)
        changes[item.name] = value
    return replace(template, **changes)  # type: ignore[type-var]
