"""``fer explain``."""

from pathlib import Path
from typing import Any

import click

from ferkit.cli.options import (
    FILE,
    common_options,
    detector_option,
    detector_weights_option,
    lang_option,
    models_dir_option,
    say,
)
from ferkit.core.errors import DataError


@click.command()
@click.argument("model_and_photo", metavar="[MODEL] PHOTO", nargs=-1, required=True)
@click.option(
    "--method",
    type=click.Choice(["auto", "occlusion", "gradcam"]),
    default="auto",
    show_default=True,
    help="Occlusion works for every model, Grad-CAM for networks; 'auto' shows what there is.",
)
@click.option(
    "--face", type=click.IntRange(1), default=1, show_default=True, help="Which face, the largest first."
)
@click.option("--target", help="Expression to explain.  [default: the one that was read]")
@click.option("--crops", is_flag=True, help="The photo is a cropped face: take it whole.")
@detector_option()
@detector_weights_option
@click.option("--out", type=FILE, help="PNG to write.  [default: PHOTO's name + '-explained.png', here]")
@lang_option
@models_dir_option
@common_options
def explain(model_and_photo: tuple[str, ...], models_dir: Path, **options: Any) -> None:
    """Show where in a face an expression was read.

    Red parts speak for the expression: it gets less likely when they are hidden. Blue ones speak against it.
    MODEL is a model's folder, or its name in --models-dir; without one the model that comes with
    ferkit is taken.

    \b
    Examples:
        fer explain photo.jpg
        fer explain network photo.jpg --target sad --out why.png
    """
    if len(model_and_photo) > 2:
        raise click.UsageError("expected one photo, after the model where one is named")
    import numpy as np

    from ferkit.core.files import write_atomically
    from ferkit.inference.explanation import draw_explanation
    from ferkit.inference.models import choose_model, default_reason, open_model

    photo = Path(model_and_photo[-1])
    if not photo.is_file():
        raise DataError(f"expected a picture at {photo}, found {'a folder' if photo.is_dir() else 'nothing'}")
    folder = choose_model(model_and_photo[0] if len(model_and_photo) == 2 else None, models_dir)
    if len(model_and_photo) == 1:
        say(default_reason(models_dir))
    model = open_model(folder)
    crop = _crop(photo, model, options)
    target = None if options["target"] is None else _position(options["target"], model.labels)
    explanation = _explain(model, crop, target, options["method"])
    picture, hint = draw_explanation(explanation, model.labels, options["lang"])
    if hint:
        say(hint)
    out = options["out"] or Path(f"{photo.stem}-explained.png")

    def save(file: Any) -> None:
        from PIL import Image

        Image.fromarray(picture).save(file, "PNG")

    write_atomically(out, save)
    names = model.labels.display(options["lang"])
    order = np.argsort(-explanation.proba)
    click.echo(", ".join(f"{names[k]} {explanation.proba[k]:.0%}" for k in order[:3]))
    click.echo(out)


def _crop(photo: Path, model: Any, options: dict[str, Any]) -> Any:
    from ferkit.core.errors import ImageError
    from ferkit.core.files import read_regular
    from ferkit.datasets.images import decode_image
    from ferkit.inference.cropping import settle_faces
    from ferkit.inference.pictures import PictureCropper

    detector = "none" if options["crops"] else options["detector"]
    faces = settle_faces(model.faces, detector, options["detector_weights"])
    say(faces.reason)
    cropper = PictureCropper(
        faces.settings, faces.open, model.classifier.input_size_wh, model.resize, look_first=faces.look_first
    )
    try:
        xyxy, crops, _ = cropper.cut(decode_image(read_regular(photo)))
    except ImageError as error:
        raise DataError(f"{photo}: {error}") from None
    if options["face"] > len(xyxy):
        hint = "; if it is a cropped face, add --crops" if len(xyxy) == 0 else ""
        raise DataError(f"expected face {options['face']} in {photo}, found {len(xyxy)}{hint}")
    return crops[options["face"] - 1]


def _position(name: str, labels: Any) -> int:
    from ferkit.core.labels import meaning_of

    meanings = [meaning_of(label) for label in labels.names]
    if meaning_of(name) not in meanings:
        raise DataError(f"expected --target out of {', '.join(labels.names)}, found {name!r}")
    return meanings.index(meaning_of(name))


def _explain(model: Any, crop: Any, target: int | None, method: str) -> Any:
    from ferkit.inference.explain import occlusion_map
    from ferkit.inference.explanation import Explanation
    from ferkit.inference.gradcam import grad_cam

    proba = model.classifier.predict_proba(crop[None])[0]
    target = int(proba.argmax()) if target is None else target
    is_network = hasattr(model.classifier, "onnx")
    if method == "gradcam" and not is_network:
        raise DataError(
            f"Grad-CAM needs a fine-tuned network, and {model.name} is another kind; use --method occlusion"
        )
    maps = {}
    if method in ("auto", "occlusion"):
        maps["occlusion"] = occlusion_map(model.classifier, crop, target)
    if method == "gradcam" or (method == "auto" and is_network):
        maps["gradcam"] = grad_cam(model.classifier, crop, target)
    return Explanation(crop, proba, target, maps)
