"""Read recipes: the settings of fine-tuning, where they come from, and the Keras backend they run on.

A recipe's file holds the fields of :class:`RecipeSettings`; what it leaves out has the default there. The same
dataclasses are the run's fingerprint: a checkpoint is continued only with the settings that made it.
"""

import contextlib
import dataclasses
import importlib.util
import os
import sys
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from ferkit.classifiers.heads import ClassWeights, read_class_weights
from ferkit.core.console import native_output_to_log
from ferkit.core.errors import DependencyError, TrainingError
from ferkit.core.files import LATER, parse_toml, settings_dict
from ferkit.core.labels import LabelSet
from ferkit.core.spellings import WORDS
from ferkit.datasets.split import SplitSettings


def _check_choice(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise TrainingError(f"expected {name} to be one of {', '.join(allowed)}, found {value!r}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise TrainingError(f"expected {name} between {low} and {high}, found {value}")


@dataclass(frozen=True)
class NetworkSettings:
    """The network.

    Attributes:
        backbone: a name of :data:`ferkit.classifiers.finetune.networks.BACKBONES`, ``ferkit`` or ``ferkit2`` for a
            network that comes along with its weights, or a ``.keras``/``.h5`` file.
        weights: ``imagenet``, ``none``, ``ferkit``, or a ``.keras``/``.h5`` file whose backbone is of the same
            shape.
        input_size_wh: pixels; (0, 0) takes the backbone's own.
        color: ``gray`` computes on the luminance, ``rgb`` on all three channels.
        pooling: what becomes of the backbone's last maps: their ``average``, or ``flatten``, all their numbers.
        hidden: units of a layer between the pooled features and the output; 0 for none.
        dropout: rate before the output (and before the hidden layer), 0..1.
        hidden_dropout: rate before the hidden layer, where it is another one.
        output: ``softmax``, or for two classes ``sigmoid``: one unit, the probability of the second class.
    """

    backbone: str = "small_resnet"
    weights: str = "none"
    input_size_wh: tuple[int, int] = (0, 0)
    color: str = "gray"
    hidden: int = 0
    dropout: float = 0.3
    output: str = "softmax"
    pooling: str = field(default="average", metadata=LATER)
    hidden_dropout: float | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone", WORDS["backbone"].get(self.backbone, self.backbone))
        _check_choice("color", self.color, "gray", "rgb")
        _check_choice("pooling", self.pooling, "average", "flatten")
        _check_choice("output", self.output, "softmax", "sigmoid")
        _check_range("dropout", self.dropout, 0, 0.95)
        if min(self.input_size_wh) < 0 or (max(self.input_size_wh) > 0 and min(self.input_size_wh) < 16):
            raise TrainingError(f"expected an input size of at least 16x16, found {self.input_size_wh}")


@dataclass(frozen=True)
class StageSettings:
    """One stage of training.

    Attributes:
        epochs: passes over the training part; 0 skips the stage. Stages count from 1; ``first`` and ``last`` are known.
        learning_rate: the peak.
        unfreeze: what of the backbone learns: ``none``, ``all``, ``last:N`` (its last N layers) or
            ``from:BLOCK`` (the block of that name and all after it).
        batch_norm: which batch normalisations of the unfrozen backbone keep the statistics and scales they
            came with: ``all``; ``s3``, those up to the third resolution; ``adaptive``, none, but scales stay
            and only statistics follow the new data (AdaBN, Li et al. 2016); ``none``.
        schedule: ``constant``; ``cosine`` to ``final`` times the peak; ``exponential``, times ``decay`` an
            epoch; ``plateau``, times ``decay`` after ``plateau_patience`` epochs without a better validation
            figure.
        final: part of the peak that ``cosine`` ends at.
        decay: factor of ``exponential`` and ``plateau``.
        plateau_patience: epochs that ``plateau`` waits.
        warmup_epochs: epochs of linear rise before the schedule.
        early_stopping: epochs without a better validation figure after which the stage ends; 0 never.
        augment: whether images are augmented.
        augment_strength: factor of every change's strength in this stage; light augmentation is below 1.
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
    augment_strength: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        _check_choice("batch_norm", self.batch_norm, "all", "s3", "adaptive", "none")
        _check_choice("schedule", self.schedule, "constant", "cosine", "exponential", "plateau")
        _check_range("epochs", self.epochs, 0, 100_000)
        _check_range("learning_rate", self.learning_rate, 1e-12, 100)
        _check_range("final", self.final, 0, 1)
        _check_range("decay", self.decay, 1e-6, 1)
        _check_range("augment_strength", self.augment_strength, 0, 10)
        kind, _, value = self.unfreeze.partition(":")
        if not (
            self.unfreeze in ("none", "all")
            or (kind == "last" and value.isdecimal())
            or (kind == "from" and value)
        ):
            raise TrainingError(f"expected unfreeze none, all, last:N or from:BLOCK, found {self.unfreeze!r}")


CHANGES = ("flip", "shift", "rotate", "zoom", "brightness", "contrast", "hue", "saturation", "hsv_shift", "noise",
           "noise_variance", "randaugment")  # fmt: skip
"""Changes that may have a probability of their own; erasing, MixUp and CutMix are one."""


@dataclass(frozen=True)
class AugmentationSettings:
    """Random changes to training images; 0 switches a change off. Validation images are never changed.

    A change is drawn for each image again. In a recipe it may say how often: ``flip = {p = 0.5}``,
    ``brightness = {amount = 0.1, p = 0.5}``. Those of one kind are made together, at the larger of their probabilities
    for those that have it: shift, rotate and zoom; brightness and contrast; hue and saturation.

    Attributes:
        flip: left-right, for half of the images.
        shift: at most this part of width and height.
        rotate: at most this many degrees.
        zoom: at most this part larger or smaller.
        brightness: at most this part of the range added or taken.
        contrast: factor between 1 - contrast and 1 + contrast.
        hue, saturation: strength 0..1; only for colour.
        hsv_shift: at most so much is added to hue, saturation and value, in OpenCV's units (180, 255, 255); only
            for colour.
        noise: standard deviation in gray levels of 0..255.
        noise_variance: the variance of the noise is drawn between these two for each image, in place of ``noise``.
        erase: probability that a rectangle is filled with gray (Zhong et al. 2020).
        randaugment: operations drawn for each batch (Cubuk et al. 2020).
        randaugment_magnitude: their strength, 0..1.
        mixup_alpha, mixup_probability: Beta parameter, and part of the batches mixed (Zhang et al. 2018).
        cutmix_alpha, cutmix_probability: the same for pasted rectangles (Yun et al. 2019). A batch gets one
            or none.
        probability: part of the images that a change is made to, by its name; all where it is not named, and half
            for ``flip``.
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
    hsv_shift: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), metadata=LATER)
    noise_variance: tuple[float, float] = field(default=(0.0, 0.0), metadata=LATER)
    probability: Mapping[str, float] = field(default_factory=dict, metadata=LATER)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, float) and f.name not in ("rotate", "noise"):
                _check_range(f.name, value, 1e-3 if f.name.endswith("_alpha") else 0, 1)
        for name, share in self.probability.items():
            _check_choice("a change with a probability", name, *CHANGES)
            _check_range(f"augmentation.{name}.p", share, 0, 1)
        if self.noise and any(self.noise_variance):
            raise TrainingError("expected noise or noise_variance, found both; set one of them")
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
        class_weights: how much the images of each class count: ``true`` by the inverse of its frequency, 1 on
            average; or a table of classes (names, or numbers from 0) and weights.
        soft_weight: how much the soft labels, where given, count next to the hard ones, 0..1.
        teacher_weight: how much a teacher's probabilities, where given, count next to the labels, 0..1.
        teacher_temperature: the teacher's logits are divided by it first (Hinton et al. 2015).
        l2: penalty on the squared weights of the layers after the backbone.
    """

    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    class_weights: ClassWeights = False
    soft_weight: float = 0.5
    teacher_weight: float = 0.7
    teacher_temperature: float = 2.0
    l2: float = field(default=0.0, metadata=LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weights", read_class_weights(self.class_weights))
        _check_range("l2", self.l2, 0, 10)
        for name in ("label_smoothing", "soft_weight", "teacher_weight"):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("focal_gamma", self.focal_gamma, 0, 20)
        _check_range("teacher_temperature", self.teacher_temperature, 0.1, 100)


@dataclass(frozen=True)
class OptimizerSettings:
    """How gradients become steps.

    Attributes:
        name: ``adamw`` (Loshchilov and Hutter 2019), ``adam`` or ``sgd`` (Nesterov momentum 0.9).
        weight_decay: decoupled; never on biases and normalisations, and not of ``adam``.
        clip_norm: gradients longer than this are shortened to it; 0 for none.
        ema: momentum of a moving average of the weights, which is what is evaluated and kept; 0 for none.
    """

    name: str = "adamw"
    weight_decay: float = 1e-4
    clip_norm: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("optimizer.name", self.name, "adamw", "adam", "sgd")
        _check_range("ema", self.ema, 0, 0.99999)


@dataclass(frozen=True)
class RecipeSettings:
    """A whole run.

    Attributes:
        batch_size: images a step.
        seed: of weights, order, augmentation and dropout.
        monitor: validation figure by which the best epoch is chosen: ``macro_f1``, ``val_accuracy`` or ``val_loss``.
        precision: Keras dtype policy.
        validation_steps: measure at most so many batches of validation images, spread evenly; 0 all.
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
    validation_steps: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "monitor", {"accuracy": "val_accuracy"}.get(self.monitor, self.monitor))
        _check_range("validation_steps", self.validation_steps, 0, 2**31)
        _check_choice("monitor", self.monitor, "macro_f1", "val_accuracy", "val_loss")
        _check_choice("precision", self.precision, "float32", "mixed_bfloat16", "mixed_float16")
        _check_range("batch_size", self.batch_size, 1, 65536)
        _check_range("seed", self.seed, 0, 2**31 - 1)
        if not any(stage.epochs for stage in self.stages):
            raise TrainingError("expected at least one stage with at least one epoch, found none")


def recipe_values(recipe: RecipeSettings) -> dict[str, Any]:
    """Return a recipe as plain values, as it is written down and hashed: in the words of 0.1."""
    values: dict[str, Any] = settings_dict(recipe)
    on_disk = {new: old for old, new in WORDS["backbone"].items()}
    values["network"]["backbone"] = on_disk.get(recipe.network.backbone, recipe.network.backbone)
    values["monitor"] = {"val_accuracy": "accuracy"}.get(recipe.monitor, recipe.monitor)
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
    kinds = typing.get_args(hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        for kind in kinds:
            with contextlib.suppress(TrainingError):
                return _convert(kind, value, where)
        raise TrainingError(f"expected {_kind_words(hint)} for {where}, found {value!r}")
    if typing.get_origin(hint) is Mapping and isinstance(value, Mapping):
        return {str(key): _convert(kinds[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(typing.cast(type, hint), value, f"{where}.")
    if isinstance(hint, types.GenericAlias) and isinstance(value, (list, tuple)):
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(
                _convert(kind, item, f"{where}.{i}")
                for i, (kind, item) in enumerate(zip(kinds, value, strict=True), start=1)
            )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise TrainingError(f"expected {_kind_words(hint)} for {where}, found {value!r}")


def _kind_words(hint: Any) -> str:
    return " or ".join(_kind_words(kind) for kind in typing.get_args(hint)) or getattr(
        hint, "__name__", str(hint)
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run keeps its files, and what it takes besides images and recipe.

    Attributes:
        model: folder of the finished model.
        work: folder of checkpoint, curves and logs.
        labels: classes and their order; None takes those of the training part, sorted.
        validate_on: ``val`` takes the data's own validation part, or holds out a share where there is none;
            ``test`` takes the test part, whose figures are then no longer those of unseen images.
        holdout: how a share is held out.
        votes: CSV of soft labels, see :func:`ferkit.classifiers.finetune.data.read_votes`.
        teacher: folder of a model whose probabilities are learnt too.
        cache: ``auto``, ``memory`` or ``disk``.
        flip: average with the mirrored image when predicting.
        restart: drop the checkpoint of an earlier run.
        overwrite: replace a finished model of the same name.
    """

    model: Path
    work: Path
    labels: LabelSet | None = None
    validate_on: str = "val"
    holdout: SplitSettings = field(default_factory=lambda: SplitSettings(test_size=0.1))
    votes: Path | None = None
    teacher: Path | None = None
    cache: str = "auto"
    flip: bool = False
    restart: bool = False
    overwrite: bool = False


def recipe_names() -> list[str]:
    """The recipes that come with the package, sorted."""
    files = resources.files("ferkit.classifiers.finetune.recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_recipe(name: str, changes: Mapping[str, Any] | None = None) -> RecipeSettings:
    """A recipe with changes.

    Args:
        name: of a recipe of the package, or a TOML file.
        changes: dotted names and values: ``{"network.dropout": 0.5, "stages.1.learning_rate": 1e-4}``;
            stages count from 1, as in the record of a run.

    Raises:
        TrainingError: no such recipe, or a name or value that a recipe cannot have.
    """
    values = _read(name)
    for dotted, value in (changes or {}).items():
        _change(values, dotted, value)
    if isinstance(values.get("augmentation"), dict):
        values["augmentation"] = _with_probabilities(values["augmentation"])
    return from_mapping(RecipeSettings, values)


def _with_probabilities(values: dict[str, Any]) -> dict[str, Any]:
    """``brightness = {amount = 0.1, p = 0.5}`` as a strength and a probability."""
    plain: dict[str, Any] = {}
    shares = dict(values.get("probability", {}))
    for name, value in values.items():
        if isinstance(value, dict) and name != "probability":
            unknown = sorted(value.keys() - {"amount", "p"})
            if unknown:
                raise TrainingError(f"expected amount and p in augmentation.{name}, found {unknown[0]}")
            if "p" in value:
                shares[name] = value["p"]
            if "amount" in value or name == "flip":
                plain[name] = value.get("amount", True)
        else:
            plain[name] = value
    return {**plain, **({"probability": shares} if shares else {})}


def parse_change(text: str) -> tuple[str, Any]:
    """``network.dropout=0.5`` as a name and a value, which is read as in TOML, or as plain text.

    Raises:
        TrainingError: there is no ``=``.
    """
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise TrainingError(f"expected name=value, such as stages.1.epochs=5, found {text!r}")
    try:
        return name.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def _read(name: str) -> dict[str, Any]:
    packaged = resources.files("ferkit.classifiers.finetune.recipes").joinpath(f"{name}.toml")
    path = Path(name)
    try:
        if name in recipe_names():
            text = packaged.read_text(encoding="utf-8")
        elif path.suffix == ".toml" and path.is_file():
            text = path.read_text(encoding="utf-8")
        else:
            raise TrainingError(
                f"no recipe is called {name!r}; known: {', '.join(recipe_names())}, or a .toml file"
            )
        return parse_toml(text)
    except (ValueError, OSError) as error:
        raise TrainingError(f"the recipe {name} cannot be read: {error}") from None


def _change(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    place: Any = values
    values.setdefault("stages", [{}])
    if last in ("amount", "p") and parents[:1] == ["augmentation"] and len(parents) == 2:
        changes = values.setdefault("augmentation", {})
        strength = changes.get(parents[1])
        if strength is not None and not isinstance(strength, dict):
            changes[parents[1]] = {"amount": strength}
    for part in parents:
        if isinstance(place, list):
            place = _item(place, part, dotted)
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            raise TrainingError(f"a recipe has no setting {dotted}")
    if not isinstance(place, dict):
        raise TrainingError(f"a recipe has no setting {dotted}")
    place[last] = value


def _item(stages: list[Any], number: str, dotted: str) -> Any:
    number = {"first": "1", "last": str(len(stages))}.get(number, number)
    if not number.isdecimal() or not 1 <= int(number) <= len(stages):
        raise TrainingError(f"expected a stage from 1 to {len(stages)} in {dotted}, found {number!r}")
    return stages[int(number) - 1]


BACKENDS = ("tensorflow", "jax", "torch")


def open_keras() -> str:
    """Import Keras and use every accelerator that its backend can share the work among.

    The backend is the one that ``KERAS_BACKEND`` names, or the first one installed of :data:`BACKENDS`.

    Returns:
        The backend's name.

    Raises:
        DependencyError: Keras or the backend is not installed.
    """
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ:
        installed = next((name for name in BACKENDS if importlib.util.find_spec(name)), None)
        if installed is None:
            raise DependencyError(
                "training needs Keras and TensorFlow, JAX or Torch; pip install 'ferkit[train]'"
            )
        os.environ["KERAS_BACKEND"] = installed
    try:
        # TensorFlow writes to the process's standard error before its own log level counts.
        with native_output_to_log("keras"):
            import keras

            keras.ops.zeros(1)  # the first tensor is what looks for devices
    except ImportError as error:
        raise DependencyError(
            f"training needs Keras with a backend ({error}); pip install 'ferkit[train]'"
        ) from None
    if keras.backend.backend() == "jax":
        accelerators = keras.distribution.list_devices()
        if len(accelerators) > 1 and keras.distribution.distribution() is None:
            keras.distribution.set_distribution(keras.distribution.DataParallel(devices=accelerators))
    return str(keras.backend.backend())


def devices_sharing() -> int:
    """Among how many accelerators each batch is divided; its size must be a multiple of that."""
    import keras

    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.device_mesh.devices.size)


def has_accelerator() -> bool:
    """Whether Keras' backend has something faster than the processor."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        return bool(torch.cuda.is_available())
    return not all(name.startswith("cpu") for name in keras.distribution.list_devices())
