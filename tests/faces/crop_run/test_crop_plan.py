"""Names of crops: kept where possible, distinct always."""

from collections.abc import Sequence
from pathlib import Path

from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.formats.annotated import Annotated
from ferkit.faces.crop_image import plan_crops


def planned(samples: Sequence[Sample], further: Sequence[Sample] = ()) -> dict[str, tuple[str, ...]]:
    dataset = Dataset("data", Path("data"), tuple(samples), FileSource(Path("data")))
    plan = plan_crops(Annotated(dataset, (), tuple(further)))
    return {image.path: tuple(face.stem for face in image.faces) for image in plan}


def test_folders_of_classes_and_splits_stay():
    samples = [
        Sample("train/기쁨/가/a b.c.jpg", "기쁨", "train"),
        Sample("Validation/기쁨/a.png", "기쁨", "val"),
        Sample("plain.jpg"),
    ]
    assert {p: stems[0] for p, stems in planned(samples).items()} == {
        "train/기쁨/가/a b.c.jpg": "train/기쁨/가/a b.c",
        "Validation/기쁨/a.png": "Validation/기쁨/a",
        "plain.jpg": "plain",
    }


def test_everything_else_goes_to_split_and_class():
    samples = [
        Sample("Training/[원천]EMOIMG_기쁨/a.jpg", "슬픔", "train"),
        Sample("/photos/b.jpg", "happy"),
        Sample("../other/happy/c.jpg", "happy", "test"),
        Sample("happy/d.jpg", "sad", "val"),
        Sample("happy/e.jpg", None, "val"),
        Sample("f.jpg", "a/b: c?"),
        Sample("g.jpg", "contact-sheets"),
    ]
    assert {p: stems[0] for p, stems in planned(samples).items()} == {
        "Training/[원천]EMOIMG_기쁨/a.jpg": "train/슬픔/a",
        "/photos/b.jpg": "happy/b",
        "../other/happy/c.jpg": "test/happy/c",
        "happy/d.jpg": "val/sad/d",
        "happy/e.jpg": "val/e",
        "f.jpg": "a_b_ c_/f",
        "g.jpg": "contact-sheets_/g",
    }


def test_names_are_told_apart_on_any_file_system():
    composed, decomposed = "\uac00", "\u1100\u1161"
    names = ["a.jpg", "A.jpg", "a.png", f"{composed}.jpg", f"{decomposed}.jpg", "x~face2.jpg", "x.jpg"]
    samples = [Sample(f"happy/{name}", "happy") for name in names]
    stems = [stem for faces in planned(samples, [Sample("happy/x.jpg", "sad")]).values() for stem in faces]
    assert sorted(stems) == sorted([
        "happy/A", "happy/a~2", "happy/a~3", f"happy/{decomposed}", f"happy/{composed}~2", "happy/x~face2~", "happy/x",
        "sad/x~face2",
    ])  # fmt: skip


def test_renaming_is_noted_and_names_fit_the_file_system():
    long = "가" * 82  # 246 bytes
    samples = [Sample(f"happy/{long}.jpg", "happy"), Sample(f"happy/{long}.png", "happy")]
    dataset = Dataset("data", Path("data"), tuple(samples), FileSource(Path("data")))
    first, second = plan_crops(Annotated(dataset))
    assert (first.faces[0].stem, first.faces[0].note) == (f"happy/{long}", "")
    name = second.faces[0].stem.removeprefix("happy/")
    assert name == "가" * 81 + "~2"
    assert second.faces[0].note == f"called {name}: the name was taken"
    assert len(first.face(None, 11).stem.removeprefix("happy/").encode()) <= 250
