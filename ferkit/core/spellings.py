"""Old names that are still understood: those of version 0.1, and the ``.env`` file of the AI Hub project before it."""

import io
import json
import logging
import re
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.core.files import read_regular

logger = logging.getLogger(__name__)

OPTIONS: dict[str, dict[str, str]] = {
    "": {
        "faceless": "no_face",
        "tap": "layer",
        "pictures": "images",
        "contender": "candidate",
        "contenders": "candidates",
        "names": "candidate",
        "file": "candidates",
        "as_json": "json",
        "as_csv": "csv",
        "group_split": "by_group",
        "detect_size": "detect_side",
        "half_life": "half_life_s",
        "window": "window_s",
        "stay": "stay_s",
        "dwell": "min_dwell_s",
        "where": "view",
    },
    "crop": {
        "detect_size": "detect_size",
        "colour": "gray!",
        "ignore_boxes": "use_boxes!",
        "format_": "format",
    },
    "demo": {"images": "n_per_class", "persons": "n_persons"},
    "embed": {"shard_size": "rows_per_shard"},
    "fit": {
        "-C": "C",
        "class_weight": "class_weights",
        "calibrate": "calibration",
        "jobs": "n_jobs",
        "no_class_weights": "class_weights=none",
    },
    "finetune": {
        "input_size": "network.input_size_wh",
        "color": "network.color",
        "dropout": "network.dropout",
        "head_epochs": "stages.first.epochs",
        "head_learning_rate": "stages.first.learning_rate",
        "learning_rate": "stages.last.learning_rate",
        "unfreeze": "stages.last.unfreeze",
        "batch_norm": "stages.last.batch_norm",
        "early_stopping": "stages.last.early_stopping",
        "label_smoothing": "loss.label_smoothing",
        "focal_gamma": "loss.focal_gamma",
        "balanced": "sampling.balanced?",
        "target_per_class": "sampling.target_per_class",
        "weight_decay": "optimizer.weight_decay",
        "clip_norm": "optimizer.clip_norm",
        "ema": "optimizer.ema",
        "no_class_weights": "class_weights=none",
        "settings": "set",
    },
    "eval": {"no_html": "page!"},
    "audit": {"likeness": "threshold", "plan": "fix", "take_back": "undo"},
    "serve": {"workers": "processes"},
    "video": {"calibrate_neutral": "neutral_s"},
    "dataset import": {
        "path_column": "columns=path={}",
        "label_column": "columns=label={}",
        "split_column": "columns=split={}",
        "group_column": "columns=group={}",
        "classes": "class",
        "problems_file": "problems",
    },
}
"""Command (``""`` for all) to old name to new one. A new name that ends in ``?`` is a flag, in ``!`` the opposite of
one; ``columns=path={}`` puts the value into another, ``class_weights=none`` stands for itself."""

WORDS = {"candidate": {"shipped": "ferkit"}, "backbone": {"plain": "baseline_cnn", "compact": "small_resnet"}}
"""Option to old value to new one."""


def new_name(command: str, name: str) -> str | None:
    """What a name of 0.1 became in a command; None if it is no such name."""
    return OPTIONS.get(command, {}).get(name) or OPTIONS[""].get(name)


def new_words(option: str, value: str) -> str:
    """A value of an option with the words of 0.1 in it replaced, also within ``ensemble:shipped+svm@hog``."""
    for old, new in WORDS.get(option, {}).items():
        value = re.sub(rf"(?<![\w./-]){old}(?![\w./-])", new, value)
    return value


_WORDS = {
    "FINE_TUNE": "FT", "FINETUNE": "FT", "LEARNING_RATE": "LR", "EARLY_STOPPING": "STOP", "EARLY_STOP": "STOP",
    "ES": "STOP", "REDUCE_LR": "PLATEAU", "RLR": "PLATEAU", "PROBABILITY": "P", "PROB": "P", "IMAGE": "IMG",
    "INPUT": "IMG", "VALIDATION": "VAL", "BATCHNORM": "BN", "EMA_DECAY": "EMA", "EMA_MOMENTUM": "EMA", "BASE": "FT",
    "STAGE1": "HEAD", "STAGE2": "FT", "LABELS": "CLASS", "CLASSES": "CLASS", "PATH": "DIR",
    **dict.fromkeys(("NUM", "MODE", "FREEZE", "USE", "RATE", "UNITS", "TRAIN", "REG", "REGULARIZATION", "NAMES"), ""),
}  # fmt: skip
"""Words and what they are read as."""

_SETTINGS = {
    "CLASS": "labels", "BATCH SIZE": "batch_size", "IMG SIZE": "network.input_size_wh", "SEED": "seed",
    "EPOCHS HEAD": "stages.1.epochs", "EPOCHS FT": "stages.last.epochs", "EPOCHS": "stages.last.epochs",
    "HEAD LR": "stages.1.learning_rate", "FT LR": "stages.last.learning_rate", "LR": "stages.last.learning_rate",
    "DROPOUT": "network.dropout", "DENSE": "network.hidden", "HIDDEN": "network.hidden", "L2": "loss.l2",
    "LABEL SMOOTHING": "loss.label_smoothing", "CLASS WEIGHTS": "loss.class_weights",
    "ALPHA MIXUP": "augmentation.mixup_alpha", "MIXUP P": "augmentation.mixup_probability",
    "ALPHA CUTMIX": "augmentation.cutmix_alpha", "CUTMIX P": "augmentation.cutmix_probability",
    "EMA": "optimizer.ema", "BN": "stages.last.batch_norm", "EPOCHS WARMUP": "stages.last.warmup_epochs",
    "WARMUP": "stages.last.warmup_epochs", "PATIENCE STOP": "stages.last.early_stopping",
    "PATIENCE PLATEAU": "stages.last.plateau_patience", "FACTOR PLATEAU": "stages.last.decay",
    "STEPS VAL": "validation_steps", "LAYERS UNFREEZE": "stages.last.unfreeze", "UNFREEZE": "stages.last.unfreeze",
    "CLIP NORM": "optimizer.clip_norm", "CLIPNORM": "optimizer.clip_norm", "MONITOR": "monitor",
    "DECAY WEIGHT": "optimizer.weight_decay", "MIXED PRECISION": "precision", "MODEL NAME": "name",
}  # fmt: skip

_FOLDERS = "name the folders on the command line: DATA, --models-dir, --cache-dir, --log-dir"

EMA = 0.999
"""The project's momentum, where its file only says that there is an average."""


def read_old_env(path: Path) -> dict[str, str]:
    """Settings by name, ``labels`` and ``name`` among them; every line of the file is reported.

    Raises:
        DataError: the file cannot be read.
    """
    from dotenv import dotenv_values

    try:
        content = read_regular(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8: {error}") from None
    found: dict[str, str] = {}
    for name, value in dotenv_values(stream=io.StringIO(content), interpolate=False).items():
        words = _words(name)
        key = _SETTINGS.get(" ".join(words))
        if key is not None and value:
            translated = _value(key, value, found.get(key))
            found[key] = translated
            logger.info(f"{path}: {name}={value} is now {key}={translated}")
        else:
            reason = _FOLDERS if "DIR" in words else "it has no counterpart"
            logger.info(f"{path}: {name} is left out: {reason if value else 'it is empty'}")
    return found


def _words(name: str) -> list[str]:
    text = f"_{name.upper()}_"
    for old, new in _WORDS.items():
        text = text.replace(f"_{old}_", f"_{new}_")
    return sorted(word for word in text.split("_") if word)


def _value(key: str, value: str, before: str | None) -> str:
    yes = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(value.lower())
    if key == "labels":
        names = json.loads(value) if value.startswith("[") else value.split(",")
        return ",".join(str(name).strip() for name in names)
    if key == "network.input_size_wh":
        sides = value.lower().replace(",", "x").split("x")
        return f"[{sides[0].strip()}, {sides[-1].strip()}]"
    if key == "optimizer.ema" and yes is not None:
        return (before or str(EMA)) if yes else "0.0"
    if key == "precision" and yes is not None:
        return "mixed_float16" if yes else "float32"
    if key == "stages.last.batch_norm" and yes is not None:
        return "all" if yes else "none"
    if key == "stages.last.unfreeze" and value.isdecimal():
        return f"last:{value}"
    return value
