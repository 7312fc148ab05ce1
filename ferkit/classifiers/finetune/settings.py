"""Every value that decides what a fine-tuning run computes: one frozen dataclass a stage of the work.

The same dataclasses are the run's fingerprint: a checkpoint is continued only with the settings that made it.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ferkit.core.errors import TrainingError
from ferkit.core.spellings import WORDS

COLORS = ("gray", "rgb")
OUTPUTS = ("softmax", "sigmoid")
BATCH_NORM = ("all", "s3", "adaptive", "none")
SCHEDULES = ("constant", "cosine", "exponential", "plateau")
OPTIMIZERS = ("adamw", "sgd")
MONITORS = ("macro_f1", "accuracy")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise TrainingError(f"expected {name} to be one of {', '.join(allowed)}, found {value!r}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise TrainingError(f"expected {name} between {low} and {high}, found {value}")


@dataclass(frozen=True)
class NetworkSettings:
    """The network.

    Attributes:
        backbone: a name of :data:`ferkit.classifiers.finetune.backbones.BACKBONES`, ``ferkit`` for the shipped
            network with its weights, or a ``.keras``/``.h5`` file.
        weights: ``imagenet``, ``none``, ``ferkit``, or a ``.keras``/``.h5`` file whose backbone is of the same
            shape.
        input_size_wh: pixels; (0, 0) takes the backbone's own.
        color: ``gray`` computes on the luminance, ``rgb`` on all three channels.
        hidden: units of a layer between the pooled features and the output; 0 for none.
        dropout: rate before the output (and before the hidden layer), 0..1.
        output: ``softmax``, or for two classes ``sigmoid``: one unit, the probability of the second class.
    """

    backbone: str = "small_resnet"
    weights: str = "none"
    input_size_wh: tuple[int, int] = (0, 0)
    color: str = "gray"
    hidden: int = 0
    dropout: float = 0.3
    output: str = "softmax"

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone", WORDS["backbone"].get(self.backbone, self.backbone))
        _check_choice("color", self.color, COLORS)
        _check_choice("output", self.output, OUTPUTS)
        _check_range("dropout", self.dropout, 0, 0.95)
        if min(self.input_size_wh) < 0 or (max(self.input_size_wh) > 0 and min(self.input_size_wh) < 16):
            raise TrainingError(f"expected an input size of at least 16x16, found {self.input_size_wh}")


@dataclass(frozen=True)
class StageSettings:
    """One stage of training.

    Attributes:
        epochs: passes over the training part; 0 skips the stage.
        learning_rate: the peak.
        unfreeze: what of the backbone learns: ``none``, ``all``, ``last:N`` (its last N layers) or
            ``from:BLOCK`` (the block of that name and all after it).
        batch_norm: which batch normalisations of the unfrozen backbone keep the statistics and scales they
            came with: ``all``; ``s3``, those up to the third resolution; ``adaptive``, none, but scales stay
            and only statistics follow the new data (AdaBN, Li et al. 2016); ``none``.
        schedule: ``constant``; ``cosine`` to ``final`` times the peak; ``exponential``, times ``decay`` an
            epoch; ``plateau``, times ``decay`` after ``plateau_patience`` epochs without a better validation
            figure.
        warmup_epochs: epochs of linear rise before the schedule.
        early_stopping: epochs without a better validation figure after which the stage ends; 0 never.
        augment: whether images are augmented.
        mix: whether MixUp and CutMix are on; off in a last stage lets the network see clean labels.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    unfreeze: str = "all"
    batch_norm: str = "none"
    schedule: str = "cosine"
    final: float = 0.01
    decay: float = 0.5
    plateau_patience: int = 3
    warmup_epochs: int = 0
    early_stopping: int = 0
    augment: bool = True
    mix: bool = True

    def __post_init__(self) -> None:
        _check_choice("batch_norm", self.batch_norm, BATCH_NORM)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_range("epochs", self.epochs, 0, 100_000)
        _check_range("learning_rate", self.learning_rate, 1e-12, 100)
        _check_range("final", self.final, 0, 1)
        _check_range("decay", self.decay, 1e-6, 1)
        kind, _, value = self.unfreeze.partition(":")
        if not (
            self.unfreeze in ("none", "all")
            or (kind == "last" and value.isdecimal())
            or (kind == "from" and value)
        ):
            raise TrainingError(f"expected unfreeze none, all, last:N or from:BLOCK, found {self.unfreeze!r}")


@dataclass(frozen=True)
class AugmentationSettings:
    """Random changes to training images; 0 switches a change off. Validation images are never changed.

    Attributes:
        flip: left-right, for half of the images.
        shift: at most this part of width and height.
        rotate: at most this many degrees.
        zoom: at most this part larger or smaller.
        brightness: at most this part of the range added or taken.
        contrast: factor between 1 - contrast and 1 + contrast.
        hue, saturation: strength 0..1; only for colour.
        noise: standard deviation in gray levels of 0..255.
        erase: probability that a rectangle is filled with gray (Zhong et al. 2020).
        randaugment: operations drawn for each batch (Cubuk et al. 2020), of strength
            ``randaugment_magnitude`` 0..1.
        mixup_alpha, mixup_probability: Beta parameter, and part of the batches mixed (Zhang et al. 2018).
        cutmix_alpha, cutmix_probability: the same for pasted rectangles (Yun et al. 2019). A batch gets one
            or none.
    """

    flip: bool = True
    shift: float = 0.1
    rotate: float = 10.0
    zoom: float = 0.1
    brightness: float = 0.1
    contrast: float = 0.2
    hue: float = 0.0
    saturation: float = 0.0
    noise: float = 0.0
    erase: float = 0.0
    randaugment: int = 0
    randaugment_magnitude: float = 0.1
    mixup_alpha: float = 0.2
    mixup_probability: float = 0.0
    cutmix_alpha: float = 0.2
    cutmix_probability: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "shift",
            "zoom",
            "brightness",
            "contrast",
            "hue",
            "saturation",
            "erase",
            "randaugment_magnitude",
        ):
            _check_range(name, getattr(self, name), 0, 1)
        for name in ("mixup_probability", "cutmix_probability"):
            _check_range(name, getattr(self, name), 0, 1)
        for name in ("mixup_alpha", "cutmix_alpha"):
            _check_range(name, getattr(self, name), 1e-3, 1)
        if self.mixup_probability + self.cutmix_probability > 1:
            raise TrainingError("expected mixup_probability and cutmix_probability to add up to at most 1")


@dataclass(frozen=True)
class SamplingSettings:
    """Which training images an epoch shows.

    Attributes:
        balanced: draw every class equally often, with replacement.
        target_per_class: smaller classes are repeated (and augmented differently each time) up to this many
            images an epoch; 0 for none. Larger classes stay whole.
    """

    balanced: bool = False
    target_per_class: int = 0

    def __post_init__(self) -> None:
        if self.balanced and self.target_per_class:
            raise TrainingError("expected balanced or target_per_class, found both; set one of them")


@dataclass(frozen=True)
class LossSettings:
    """Cross-entropy and what is done to it.

    Attributes:
        label_smoothing: part of each target spread over all classes, 0..1.
        focal_gamma: down-weights easy samples (Lin et al. 2017); 0 is plain cross-entropy.
        class_weights: weigh each class by the inverse of its frequency, 1 on average.
        soft_weight: how much the soft labels, where given, count beside the hard ones, 0..1.
        teacher_weight: how much a teacher's probabilities, where given, count beside the labels, 0..1.
        teacher_temperature: the teacher's logits are divided by it first (Hinton et al. 2015).
    """

    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    class_weights: bool = False
    soft_weight: float = 0.5
    teacher_weight: float = 0.7
    teacher_temperature: float = 2.0

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "soft_weight", "teacher_weight"):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("focal_gamma", self.focal_gamma, 0, 20)
        _check_range("teacher_temperature", self.teacher_temperature, 0.1, 100)


@dataclass(frozen=True)
class OptimizerSettings:
    """How gradients become steps.

    Attributes:
        name: ``adamw`` (Loshchilov and Hutter 2019) or ``sgd`` (Nesterov momentum 0.9).
        weight_decay: decoupled; never on biases and normalisations.
        clip_norm: gradients longer than this are shortened to it; 0 for none.
        ema: momentum of a moving average of the weights, which is what is evaluated and kept; 0 for none.
    """

    name: str = "adamw"
    weight_decay: float = 1e-4
    clip_norm: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("optimizer.name", self.name, OPTIMIZERS)
        _check_range("ema", self.ema, 0, 0.99999)


@dataclass(frozen=True)
class RecipeSettings:
    """A whole run.

    Attributes:
        batch_size: images a step.
        seed: of weights, order, augmentation and dropout.
        monitor: validation figure by which the best epoch is chosen: ``macro_f1`` or ``accuracy``.
        precision: Keras dtype policy.
        stages: trained one after the other, each from the best weights of the one before.
    """

    network: NetworkSettings = field(default_factory=NetworkSettings)
    stages: tuple[StageSettings, ...] = (StageSettings(),)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    batch_size: int = 128
    seed: int = 0
    monitor: str = "macro_f1"
    precision: str = "float32"

    def __post_init__(self) -> None:
        _check_choice("monitor", self.monitor, MONITORS)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_range("batch_size", self.batch_size, 1, 65536)
        _check_range("seed", self.seed, 0, 2**31 - 1)
        if not any(stage.epochs for stage in self.stages):
            raise TrainingError("expected at least one stage with at least one epoch, found none")


def recipe_values(recipe: RecipeSettings) -> dict[str, Any]:
    """Return a recipe as plain values, as it is written down and hashed: backbones under their names of 0.1."""
    values = dataclasses.asdict(recipe)
    on_disk = {new: old for old, new in WORDS["backbone"].items()}
    values["network"]["backbone"] = on_disk.get(recipe.network.backbone, recipe.network.backbone)
    return values


def from_mapping(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """Build a settings dataclass from plain containers, such as TOML gives.

    Raises:
        TrainingError: an unknown name or a value of the wrong type; the message names it and what is allowed.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise TrainingError(f"unknown setting {where}{unknown[0]}; known here: {', '.join(hints)}")
    return cls(**{name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(typing.cast(type, hint), value, f"{where}.")
    if isinstance(hint, types.GenericAlias) and isinstance(value, (list, tuple)):
        kinds = typing.get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(
                _convert(kind, item, f"{where}.{i}")
                for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
            )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise TrainingError(f"expected {getattr(hint, '__name__', hint)} for {where}, found {value!r}")
