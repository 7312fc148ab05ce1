"""The command lines of a user of version 0.1, by name; run in a copy of ``home/``.

They keep version 0.1's spellings on purpose: what it accepted is accepted for ever.
"""

PERSON = ("--person-pattern", r"^(p\d+)_")
EMBED = ("embed", "faces", "--shard-size", "16", "--batch-size", "8", *PERSON)
FIT = ("fit", "--embeddings", "faces--ferkit")
FINETUNE = ("--set", "augmentation.rotate=0", "--batch-size", "16", "--seed", "1", *PERSON)

STORES: dict[str, tuple[str, ...]] = {
    "shipped": EMBED,
    "onnx": (*EMBED, "--backbone", "onnx:net.onnx", "--name", "own", "--scale", "0.01"),
    "inner layer": (*EMBED, "--backbone", "onnx:net.onnx", "--name", "inner", "--tap", "stage2", "--pool", "2x3"),
    "given boxes": ("embed", "photos.csv", "--backbone", "raw", "--detector", "given", "--margin", "0.2"),
    "no face": ("embed", "photos", "--backbone", "raw", "--detector", "haar", "--faceless", "whole", "--no-align"),
    "float16": (*EMBED, "--dtype", "float16", "--name", "half"),
    "manifest": ("embed", "faces.csv", "--name", "listed", "--shard-size", "16"),
}  # fmt: skip
"""Finished stores: the same command finds everything there."""

INTERRUPTED = (*EMBED, "--name", "stopped")
"""A store whose third shard was being written when Ctrl-C was pressed."""

HEADS: dict[str, tuple[str, ...]] = {
    "mlp": (*FIT, "--head", "mlp", "--hidden", "12", "--max-epochs", "20", "--calibrate", "none"),
    "svm": (*FIT, "--head", "svm", "--pca", "8"),
    "logistic": (*FIT, "--head", "logistic", "-C", "0.01", "--class-weight", "balanced"),
    "dummy": (*FIT, "--head", "dummy"),
    "sigmoid": (*FIT, "--head", "logistic", "--calibrate", "sigmoid", "--pca", "8", "--name", "sigmoid"),
    "isotonic": (*FIT, "--head", "logistic", "--calibrate", "isotonic", "--pca", "8", "--name", "isotonic"),
    "temperature": (*FIT, "--head", "svm", "--calibrate", "temperature", "--pca", "8", "--name", "temperature"),
    "on-onnx": ("fit", "--embeddings", "own", "--head", "logistic", "--pca", "none", "--name", "on-onnx"),
    "on-layer": ("fit", "--embeddings", "inner", "--head", "mlp", "--hidden", "8", "--name", "on-layer"),
    "on-float16": ("fit", "--embeddings", "half", "--head", "logistic", "--pca", "8", "--name", "on-float16"),
}  # fmt: skip

NETWORK = (
    *("finetune", "faces", "--recipe", "tiny.toml", "--name", "network", "--validate-on", "test"), *FINETUNE,
    *("--flip", "--epochs", "2"),
)  # fmt: skip
HALF_FINISHED = (
    *("finetune", "faces", "--backbone", "plain", "--input-size", "16x16", "--name", "half-finished"), *FINETUNE,
    *("--epochs", "2", "--unfreeze", "none", "--learning-rate", "0.02", "--validate-on", "test"),
)  # fmt: skip
ENSEMBLE = ("ensemble", "mlp", "network", "--rule", "logit-mean", "--name", "ensemble")
COMPARE = (
    *("compare", "faces", "--contenders", "contenders.toml", "-c", "shipped", "-c", "dummy", "--allow-leaks"),
    *("--batch-size", "8", *PERSON),
)  # fmt: skip
CROP = (
    "crop",
    "photos.csv",
    "crops",
    "--size",
    "24",
    "--faceless",
    "whole",
    "--format",
    "png",
    "--margin",
    "0.2",
)
IMPORT = ("dataset", "import", "folder", "faces", "-o", "faces.csv", *PERSON)
AUDIT = ("audit", "faces", "-o", "report", *PERSON)
FIX = ("audit", "faces", "--fix", "plan.csv", "-o", "audited.csv", *PERSON)
