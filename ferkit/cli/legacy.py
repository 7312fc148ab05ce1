"""``fer import``."""

from pathlib import Path

import click

from ferkit.cli.options import FILE, common_options, models_dir_option, say


@click.command("import")
@click.argument("file", type=FILE)
@click.option("--trust", is_flag=True, help="You know who made FILE: opening it runs code that is in it.")
@click.option("--labels", help="Classes in the order of the head's numbers: a label set (aihub7), or a,b,c.")
@click.option(
    "-b", "--backbone", default="arcface", show_default=True, help="What the head's embeddings are made by."
)
@click.option("--weights", type=FILE, help="Take this file as the backbone's weights.")
@click.option("--tap", help="Where the embeddings are taken from, if not from the end.")
@click.option(
    "--detector",
    type=click.Choice(["none", "haar", "yunet"]),
    default="none",
    show_default=True,
    help="How faces were cropped for the head; 'none': it was trained on crops.",
)
@click.option("--name", help="Name of the model.  [default: that of FILE]")
@models_dir_option
@common_options
def import_head(
    file: Path, trust: bool, labels: str | None, backbone: str, weights: Path | None, tap: str | None,
    detector: str, name: str | None, models_dir: Path,
) -> None:  # fmt: skip
    """Take in a scikit-learn head from a pickle or joblib file.

    The head of an earlier project becomes a model folder like any other, which opens without running code of others.

    \b
    Examples:
        fer import emotion_mlp.pkl --trust --labels 기쁨,당황,분노,불안,상처,슬픔,중립
        fer import head.joblib --trust --backbone facenet512 --labels aihub4
    """
    import numpy as np

    from ferkit.classifiers.embedding import save_embedding_model
    from ferkit.classifiers.legacy import import_joblib_head
    from ferkit.core.errors import ModelError
    from ferkit.core.labels import LabelSet, known_label_sets
    from ferkit.embedder.backbones import open_embedder
    from ferkit.faces.cropping import CropSettings

    names: tuple[str, ...] | None = None
    if labels is not None:
        known = labels in known_label_sets()
        names = LabelSet.named(labels).names if known else tuple(part.strip() for part in labels.split(","))
    head = import_joblib_head(file, trust=trust, labels=names)
    embedder = open_embedder(backbone, weights=weights, tap=tap)
    if embedder.dim != head.dim:
        raise ModelError(
            f"the head takes {head.dim} numbers, {backbone} gives {embedder.dim}; name its --backbone (and --tap)"
        )
    # Only to compare the head's two forms, so any numbers of the right size will do.
    X = np.random.default_rng(0).normal(size=(256, head.dim)).astype(np.float32)
    model = save_embedding_model(
        models_dir / (name or file.stem),
        head,
        X,
        embedder_settings=embedder.settings,
        embedder_fingerprint=embedder.fingerprint,
        faces=CropSettings.whole() if detector == "none" else CropSettings(detector),
        weights=embedder.weights_path,
        licence=embedder.licence,
    )
    say(f"classes: {', '.join(head.classes)}")
    click.echo(f"model: {model.folder}")
