"""Spellings of version 0.1 that are still understood: the one table of them."""

import re

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

WORDS = {
    "candidate": {"shipped": "ferkit"},
    "backbone": {"plain": "baseline_cnn", "compact": "small_resnet"},
}
"""Option to old value to new one."""


def new_name(command: str, name: str) -> str | None:
    """What a name of 0.1 became in a command; None if it is no such name."""
    return OPTIONS.get(command, {}).get(name) or OPTIONS[""].get(name)


def new_words(option: str, value: str) -> str:
    """A value of an option with the words of 0.1 in it replaced, also within ``ensemble:shipped+svm@hog``."""
    for old, new in WORDS.get(option, {}).items():
        value = re.sub(rf"(?<![\w./-]){old}(?![\w./-])", new, value)
    return value
