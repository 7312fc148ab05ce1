"""``fer finetune`` as one function: images in, a trained and exported model folder out."""

import contextlib
import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.finetune.data import Pixels, TrainVal, check_classes, divide, load_pixels
from ferkit.classifiers.finetune.recipe import (
    RecipeSettings,
    RunOptions,
    has_accelerator,
    open_keras,
    recipe_values,
)
from ferkit.classifiers.kinds import save_network_model
from ferkit.classifiers.model import TRAINING_IMAGES, Model, ModelRecord, read_model, refuse_bundled_name
from ferkit.core.console import some
from ferkit.core.errors import DataError, ModelError, TrainingError
from ferkit.core.files import exclusive_lock, file_sha256, settings_dict
from ferkit.core.weights import EDITIONS, NETWORK_KERAS, NETWORK_ONNX
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.leakage import image_keys
from ferkit.faces.cropping import Cropping, FaceCropper, resolve_cropping

logger = logging.getLogger(__name__)


def finetune(dataset: Dataset, recipe: RecipeSettings, asked: Cropping, options: RunOptions) -> Model:
    """Train as the recipe says, going on where an interrupted run stopped, and write the best epoch as a
    model.

    Args:
        dataset: labelled images.
        recipe: what to do.
        asked: how faces are taken out of them.
        options: where to, and what else.

    Raises:
        DataError: the images cannot be learnt from; the message says why.
        TrainingError: the recipe cannot be carried out, or the loss stopped being a number. If an epoch was
            finished before, the model is written first.
        SettingsMismatchError: an interrupted run had other settings.
        FerkitError: the disk is full.
    """
    refuse_bundled_name(options.model)
    if options.model.exists() and not options.overwrite:
        raise ModelError(f"the model {options.model} exists; choose another --name, or --overwrite it")
    open_keras()
    from ferkit.classifiers.finetune.networks import input_shape

    parts = divide(dataset, options)
    most = recipe.validation_steps * recipe.batch_size
    if 0 < most < len(parts.validation):
        rows = np.linspace(0, len(parts.validation) - 1, most).astype(int)
        logger.info(f"validation on {most:,} of {len(parts.validation):,} images (validation_steps)")
        parts = replace(
            parts, validation=parts.validation.subset([parts.validation.samples[i] for i in rows])
        )
    height, width, _ = input_shape(recipe.network)
    cropping = resolve_cropping(parts.train, asked)
    logger.info(cropping.reason)
    cropper = FaceCropper(cropping.settings, cropping.open_detector, (width, height), "stretch")
    with exclusive_lock(options.work / "lock", "training in"):
        if options.restart:
            clear(options.work)
        train = _read(parts.train, "train", parts.labels.names, cropper, recipe, options)
        validation = _read(parts.validation, "validation", parts.labels.names, cropper, recipe, options)
        check_classes(train.y, validation.y, parts.labels)
        settings = {
            "recipe": recipe_values(recipe),
            "labels": list(parts.labels.names),
            "faces": settings_dict(cropping.settings),
            "train": digest(train),
            "validation": digest(validation),
            "votes": _sha256(options.votes),
            "teacher": _sha256(options.teacher / "model.json" if options.teacher else None),
        }
        targets = _targets(train, parts, recipe, options)
        record = ModelRecord(
            kind="network",
            labels=parts.labels.names,
            input_size_wh=(width, height),
            faces=settings_dict(cropping.settings),
            crops=cropping.kind,
            data={
                "name": dataset.name,
                "root": str(dataset.root.resolve()),
                "digest": settings["train"],
                "class_counts": parts.train.class_counts(),
            },
            split={
                "origin": parts.origin,
                "validated_on": options.validate_on,
                "train_rows": len(train),
                "validation_rows": len(validation),
            },
            seeds={"run": recipe.seed},
            licence=_licence(recipe),
        )
        return train_and_save(train, targets, validation, recipe, record, options, settings)


def _read(
    images: Dataset,
    part: str,
    names: Sequence[str],
    cropper: FaceCropper,
    recipe: RecipeSettings,
    options: RunOptions,
) -> Pixels:
    pixels = load_pixels(
        images, names, cropper, recipe.network.color,
        cache=options.cache, cache_file=options.work / f"{part}.npy", doing=f"reading {part}",
    )  # fmt: skip
    if pixels.failures:
        logger.info(f"left out: {some([f'{path}: {reason}' for path, reason in pixels.failures])}")
    return pixels


def train_and_save(
    train: Pixels,
    targets: np.ndarray,
    validation: Pixels,
    recipe: RecipeSettings,
    record: ModelRecord,
    options: RunOptions,
    settings: dict[str, Any],
) -> Model:
    """The part after the images are read; see :func:`finetune`."""
    import keras

    from ferkit.classifiers.finetune.export import to_keras, to_onnx
    from ferkit.classifiers.finetune.networks import build_core, whole_network
    from ferkit.classifiers.finetune.training import TrainingData, nan_advice
    from ferkit.classifiers.finetune.training import train as run_recipe

    k = len(record.labels)
    if recipe.precision == "mixed_float16" and not has_accelerator():
        logger.warning(
            "mixed_float16 is made for accelerators: on this processor it is slower than float32, and losses may "
            "overflow; use --set precision=mixed_bfloat16 or float32"
        )
    keras.utils.set_random_seed(recipe.seed)
    core = build_core(recipe.network, k, recipe.precision)
    logger.info(
        f"network: {recipe.network.backbone}, {core.count_params():,} weights, on {keras.backend.backend()}"
    )
    result = run_recipe(
        core, recipe, TrainingData(train, targets, validation, record.labels), options.work, settings
    )
    network = whole_network(core, recipe.network, k)
    files = {NETWORK_ONNX: to_onnx(network), NETWORK_KERAS: to_keras(network)}
    curves = [options.work / name for name in ("history.csv", "curves.png")]
    files |= {path.name: path.read_bytes() for path in curves if path.is_file()}
    images = io.BytesIO()
    np.save(images, np.unique(image_keys(train.sha256)))
    files[TRAINING_IMAGES] = images.getvalue()
    best = result.best
    figures = {
        "accuracy": best.val_accuracy,
        "macro_f1": best.val_macro_f1,
        "loss": best.val_loss,
        "epoch": best.epoch,
        "images": len(validation),
    }
    parts = {"recipe": recipe_values(recipe), "epochs": len(result.history)}
    record = replace(record, parts=parts, metrics={"validation": figures})
    artifact = save_network_model(
        options.model, files, record, flip=options.flip, overwrite=options.overwrite
    )
    if result.nan_epoch is not None:
        raise TrainingError(
            f"{nan_advice(result.nan_epoch)}. The weights of epoch {best.epoch} are kept in {options.model}"
        )
    clear(options.work)  # the run is finished, and what is worth keeping lies in the model
    return artifact


def clear(folder: Path) -> None:
    """Remove what a run left in its work folder."""
    from ferkit.classifiers.finetune.training import BEST, CHECKPOINT

    for name in (CHECKPOINT, BEST, "history.csv", "curves.png", "train.npy", "validation.npy"):
        # Windows keeps what is mapped; the next run writes over it.
        with contextlib.suppress(PermissionError):
            (folder / name).unlink(missing_ok=True)


def digest(pixels: Pixels) -> str:
    """SHA-256 of what a run sees of its data: order, classes and every pixel."""
    sha = hashlib.sha256("\n".join(pixels.paths).encode("utf-8", "surrogateescape"))
    sha.update(pixels.y.tobytes())
    for start in range(0, len(pixels), 4096):
        sha.update(pixels.images[start : start + 4096].tobytes())
    return sha.hexdigest()


def _targets(train: Pixels, parts: TrainVal, recipe: RecipeSettings, options: RunOptions) -> np.ndarray:
    from ferkit.classifiers.finetune.data import read_votes, teacher_opinion, training_targets

    soft = read_votes(options.votes, train.paths, parts.labels) if options.votes else None
    teacher = None
    if options.teacher is not None:
        teacher = teacher_opinion(read_model(options.teacher).classifier, train.images, parts.labels)
    return training_targets(train.y, len(parts.labels), recipe.loss, soft, teacher)


def _licence(recipe: RecipeSettings) -> str:
    network, begun = recipe.network, ""
    if network.backbone in EDITIONS:
        begun = f" from {network.backbone} (MIT; learnt from FER2013, which is for research)"
    elif network.weights == "imagenet":
        begun = " from ImageNet weights of keras.applications (Apache-2.0; ImageNet is for research)"
    elif network.weights != "none":
        begun = f" from {Path(network.weights).name}"
    return f"trained here{begun}"


def _sha256(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
