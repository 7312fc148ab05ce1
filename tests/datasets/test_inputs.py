"""What people really have: every way in takes what it can, and says in one line what it left out and why."""

import io
import logging
import os
import socket
import struct
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ferkit.core.errors import DataError, ImageError
from ferkit.datasets import archives, images
from ferkit.datasets.archives import ArchiveSource
from ferkit.datasets.dataset import (
    FileSource,
    left_out_counts,
    left_out_line,
    list_folder,
    read_folder,
    split_named,
)
from ferkit.datasets.edit import relabel
from ferkit.datasets.export import export_folder
from ferkit.datasets.images import decode_image, kind_of
from ferkit.datasets.load import GivenImages, find_paths, load_dataset
from ferkit.datasets.tables import parse_columns

FORMS = {".jpg": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".webp": "WEBP", ".gif": "GIF",
         ".jp2": "JPEG2000", ".avif": "AVIF"}  # fmt: skip


def encoded(form: str, gray: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.new(
        "L" if form == "JPEG2000" else "RGB", (16, 16), gray if form == "JPEG2000" else (gray,) * 3
    ).save(buffer, form)
    return buffer.getvalue()


PNG = encoded("PNG")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def write(root: Path, *names: str | bytes, content: bytes = PNG) -> Path:
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    return root


def labels(root: Path, **options) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {s.path: (s.label, s.split, s.group) for s in load_dataset(root, **options).samples}


# Files and formats


@pytest.mark.parametrize(("suffix", "form"), FORMS.items())
def test_every_usual_format_is_listed_and_read(tmp_path: Path, suffix: str, form: str):
    write(tmp_path, f"happy/a{suffix.upper()}", content=encoded(form))
    data = load_dataset(tmp_path)
    assert abs(int(data.read(data.samples[0]).mean()) - 100) < 4
    assert data.left_out == ()


@pytest.mark.parametrize("form", sorted(set(FORMS.values())))
def test_the_content_counts_where_the_suffix_says_nothing(tmp_path: Path, form: str):
    write(tmp_path, "happy/a", "happy/b.20240101", "happy/c.PICTURE", content=encoded(form))
    write(tmp_path, "happy/d", "happy/e.note", content=b"BM, a text that begins like a bitmap")
    data = load_dataset(tmp_path)
    assert data.paths.tolist() == ["happy/a", "happy/b.20240101", "happy/c.PICTURE"]
    assert left_out_counts(data.left_out) == {"without suffix": 1, ".note": 1}
    assert kind_of(encoded(form)[: images.HEAD_BYTES]) == form


def test_a_wrong_suffix_does_no_harm(tmp_path: Path):
    for suffix, form in zip(FORMS, list(FORMS.values())[::-1], strict=True):
        write(tmp_path, f"happy/a{suffix}", content=encoded(form))
    data = load_dataset(tmp_path)
    assert all(data.read(sample).shape == (16, 16, 3) for sample in data.samples)


def test_heic_without_its_library_is_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(images, "reads_heif", lambda: False)
    write(tmp_path, "sad/a.png", "angry/b.png")
    write(tmp_path, "happy/1.HEIC", "happy/2.heic", "happy/3.heif", "happy/4", content=HEIC)
    with caplog.at_level(logging.WARNING):
        data = load_dataset(tmp_path)
    assert data.class_counts() == {"angry": 1, "sad": 1}
    assert caplog.messages == [
        "4 files not read: .heic 2 (pip install 'ferkit[heif]' reads HEIC), .heif 1 (pip install 'ferkit[heif]' reads "
        "HEIC), HEIC 1 (pip install 'ferkit[heif]' reads HEIC); the first is happy/1.HEIC",
        "no images in the folders happy; their classes are left out",
    ]
    with pytest.raises(ImageError, match=r"content is HEIC.*ferkit\[heif\]"):
        decode_image(HEIC)


def test_heic_is_read_where_its_library_is_there(tmp_path: Path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    content = encoded("HEIF", 80)
    write(tmp_path, "happy/a.HEIC", "happy/b.jpg", "happy/c", content=content)
    data = load_dataset(tmp_path)
    assert len(data) == 3
    assert all(abs(int(data.read(sample).mean()) - 80) < 4 for sample in data.samples)


def test_pipes_sockets_devices_and_broken_links_are_named_and_passed_over(tmp_path: Path):
    write(tmp_path, "happy/a.png")
    os.mkfifo(tmp_path / "happy/fifo.jpg")
    (tmp_path / "happy/zero.png").symlink_to("/dev/zero")
    (tmp_path / "happy/gone.png").symlink_to("nowhere")
    (tmp_path / "happy/to_fifo").symlink_to("fifo.jpg")
    (tmp_path / "happy/round.jpg").symlink_to("round.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path / "happy")  # names of sockets are short
        try:
            listener.bind("s.jpg")
        finally:
            os.chdir(here)
        data = load_dataset(tmp_path)
    assert left_out_counts(data.left_out) == {"not a regular file": 4}
    assert data.paths.tolist() == ["happy/a.png", "happy/gone.png", "happy/round.jpg"]
    for broken in data.samples[1:]:
        with pytest.raises(OSError, match=r"No such file|symbolic links"):
            data.read(broken)
    for special in ("fifo.jpg", "zero.png"):
        with pytest.raises(DataError, match="not a regular file"):
            load_dataset(tmp_path / "happy" / special)


def test_hidden_and_system_files_are_passed_over_silently(tmp_path: Path):
    write(tmp_path, "happy/a.png", ".git/b.png", "happy/._a.png", "__MACOSX/x.png", "happy/Thumbs.db", "desktop.ini",
          "@eaDir/c.png", "sheets/.nomedia", "sheets/d.png", "$RECYCLE.BIN/e.png")  # fmt: skip
    assert list_folder(tmp_path).left_out == ()
    assert load_dataset(tmp_path).paths.tolist() == ["happy/a.png"]


def test_one_line_says_all_reasons():
    left_out = (
        ("a.txt", ".txt"),
        ("b.txt", ".txt"),
        ("list.csv", "no path: row 3"),
        ("list.csv", "no path: row 9"),
    )
    assert left_out_counts(left_out) == {".txt": 2, "no path": 2}
    assert left_out_line(left_out[:1]) == "1 file not read: .txt 1, a.txt"
    assert left_out_line(left_out, "rows") == "4 rows not read: .txt 2, no path 2; the first is a.txt"


def test_patterns_mean_the_files_that_fit(tmp_path: Path):
    write(tmp_path, "a/1.png", "a/2.png", "a/[x].png")
    assert [path.name for path in find_paths(tmp_path / "a/*.png")] == ["1.png", "2.png", "[x].png"]
    assert find_paths(tmp_path / "a/[x].png") == [tmp_path / "a/[x].png"]
    with pytest.raises(DataError, match="of the pattern"):
        find_paths(tmp_path / "*.jpg")


# Folders


@pytest.mark.parametrize(
    ("train", "test"),
    [("train_set", "test_set"), ("1.Training", "3.Test"), ("훈련", "시험"), ("학습데이터", "평가 데이터"),
     ("TRAIN", "Testing"), ("trainset", "testset"), ("train-images", "test2017"), ("训练集", "测试集"),
     ("훈련용", "테스트용"), ("Entrenamiento", "Prueba")],
)  # fmt: skip
@pytest.mark.parametrize("wrapped", ["", "dataset/", "a/b/"])
def test_split_folders_have_many_names(tmp_path: Path, train: str, test: str, wrapped: str):
    write(
        tmp_path,
        *(f"{wrapped}{part}/{cls}/{i}.png" for part in (train, test) for cls in ("x", "y") for i in range(2)),
    )
    found = labels(tmp_path)
    assert len(found) == 8
    for path, (label, split, group) in found.items():
        inner = path.removeprefix(wrapped)
        assert (label, split, group) == (
            inner.split("/")[1],
            "train" if inner.startswith(train) else "test",
            None,
        )


@pytest.mark.parametrize(
    "name",
    ["happy", "fear", "train_happy", "testimony", "set1", "데이터", "기쁨", "", "1", "contest", "traintest"],
)
def test_names_that_are_no_splits(name: str):
    assert split_named(name) is None


def test_a_wrapping_folder_is_seen_through_but_a_single_class_is_not(tmp_path: Path):
    write(tmp_path / "one", "faces/happy/a.png", "faces/sad/b.png")
    assert {label for label, _, _ in labels(tmp_path / "one").values()} == {"happy", "sad"}
    write(tmp_path / "two", "happy/monday/a.png", "happy/tuesday/b.png")
    assert {label for label, _, _ in labels(tmp_path / "two").values()} == {"happy"}
    write(tmp_path / "three", "cats/a.png", "cats/more/b.png")
    assert {label for label, _, _ in labels(tmp_path / "three").values()} == {"cats"}


@pytest.mark.parametrize("split", ["", "train/", "data/훈련/"])
@pytest.mark.parametrize(
    "classes", [("happy", "sad", "other"), ("기쁨", "슬픔", "분노"), ("Joy", "SADNESS", "anger")]
)
def test_persons_above_expressions_are_persons(
    tmp_path: Path, split: str, classes: tuple[str, ...], caplog: pytest.LogCaptureFixture
):
    write(tmp_path, *(f"{split}{person}/{cls}/1.png" for person in ("kim", "p02", "이") for cls in classes))
    with caplog.at_level(logging.INFO):
        found = labels(tmp_path)
    assert {(label, group) for label, _, group in found.values()} == {
        (cls, person) for cls in classes for person in ("kim", "p02", "이")
    }
    assert any("person/expression: 3 persons" in message for message in caplog.messages)


def test_expressions_above_anything_stay_the_classes(tmp_path: Path):
    write(tmp_path, "happy/kim/1.png", "sad/kim/2.png", "happy/lee/3.png", "mine/happy/4.png")
    assert {label for label, _, _ in labels(tmp_path).values()} == {"happy", "sad", "mine"}


def test_spellings_of_one_class_are_remarked_on_and_merged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    names = ("happy", "Happy", "기쁨", "sad", "SAD", "neutral")
    write(
        tmp_path, *(f"{name}/{i}.png" for name in names for i in range(3 if name in ("happy", "SAD") else 2))
    )
    with caplog.at_level(logging.WARNING):
        data = load_dataset(tmp_path)
    (remark,) = caplog.messages
    assert "Happy and happy and 기쁨; SAD and sad mean the same" in remark
    assert f"fer dataset map {tmp_path} -o merged.csv" in remark
    assert relabel(data).dataset.class_counts() == {"SAD": 5, "happy": 7, "neutral": 2}


def test_names_in_cp949_are_korean_and_others_are_refused(tmp_path: Path):
    folder = "기쁨".encode("cp949") + b"/" + "김_1.png".encode("cp949")
    write(tmp_path / "a", folder, "슬픔/b.png")
    data = load_dataset(tmp_path / "a", person_pattern="^([^_]+)_")
    assert data.class_counts() == {"기쁨": 1, "슬픔": 1}
    assert "김" in data.groups
    assert all(data.read(sample).shape == (16, 16, 3) for sample in data.samples)
    write(tmp_path / "b", b"tr\xe8s content/a.png", "sad/b.png")
    with pytest.raises(DataError, match=r"names in UTF-8 or CP949, found 'tr\\udce8s content'"):
        load_dataset(tmp_path / "b")


# Tables

ROWS = [
    ("얼굴/가 1.png", "기쁨", "train", "p1"),
    ("얼굴/나.png", "슬픔", "test", "p2"),
    ("얼굴/하,나;둘.png", "기쁨", "val", ""),
]
HEADERS = [
    ("path", "label", "split", "group"), ("경로", "감정", "구분", "인물"),
    ("img_path", "emotion", "subset", "Subject ID"),
    ("File Name", "EXPRESSION", "Usage", "person"), ("subDirectory_filePath", "expression", "split", "person_id"),
    ("이미지", "표정", "세트", "피험자"), ("pth", "label", "partition", "identity"), None,
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    header=st.sampled_from(HEADERS),
    sign=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp949"]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    form=st.sampled_from(["NFC", "NFD"]),
    quoted=st.booleans(),
    windows=st.booleans(),
)
def test_a_table_is_the_same_in_every_form(
    tmp_path_factory, header, sign, encoding, newline, form, quoted, windows
):
    if encoding == "cp949":
        form = "NFC"  # it has no single jamo
    folder = tmp_path_factory.mktemp("table")
    on_disk = "NFD" if form == "NFC" else "NFC"
    for path, *_ in ROWS:
        write(folder, unicodedata.normalize(on_disk, path))

    def line(cells: tuple[str, ...]) -> str:
        marked = (f'"{cell}"' if quoted or sign in cell else cell for cell in cells)
        return sign.join(unicodedata.normalize(form, cell) for cell in marked)

    rows = [(path.replace("/", "\\") if windows else path, *rest) for path, *rest in ROWS]
    if header is None:
        rows = [row[:3] for row in rows]
    lines = [line(row) for row in ([header] if header else []) + rows]
    (folder / "t.csv").write_bytes((newline.join(lines) + newline).encode(encoding))
    data = load_dataset(folder / "t.csv")
    found = {(s.label, s.split, s.group) for s in data.samples}
    assert found == {(label, split, (group or None) if header else None) for _, label, split, group in ROWS}
    assert data.left_out == ()
    assert all(data.read(sample).shape == (16, 16, 3) for sample in data.samples)


def test_columns_that_nobody_knows_are_refused_and_named(tmp_path: Path):
    table = tmp_path / "t.csv"
    table.write_text("bild,stimmung,teil,wer\na.png,froh,train,p1\nb.png,traurig,test,p2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"found bild, stimmung, teil, wer; say .* --columns path=bild"):
        load_dataset(table)
    named = parse_columns("path=bild, label=stimmung, split=Teil, group=4")
    assert labels(table, columns=named) == {
        "a.png": ("froh", "train", "p1"),
        "b.png": ("traurig", "test", "p2"),
    }
    assert labels(table, columns={"path": "bild", "label": ""})["a.png"] == (None, None, None)
    with pytest.raises(DataError, match=r"a column 'mood' in .*found bild"):
        load_dataset(table, columns={"path": "bild", "label": "mood"})
    for text in ("path", "way=x", "path=a;label=b,=c"):
        with pytest.raises(DataError, match="expected --columns like"):
            parse_columns(text)


def test_columns_that_are_kept_as_attributes_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    table = tmp_path / "t.csv"
    table.write_text("path,label,sex,who,fold\na.png,happy,f,p1,0\nb.png,sad,m,p2,1\n", encoding="utf-8")
    with caplog.at_level(logging.INFO):
        data = load_dataset(table)
    assert data.splits.tolist() == [None, None]
    assert dict(data.samples[0].attributes) == {"sex": "f", "who": "p1", "fold": "0"}
    assert any("attributes: who" in message and "group=NAME" in message for message in caplog.messages)
    assert any("'fold'" in message and "names no parts" in message for message in caplog.messages)


def test_a_first_row_with_an_image_is_no_header(tmp_path: Path):
    write(tmp_path, "scan", "x/b.png")
    table = tmp_path / "t.tsv"
    for text, expected in (
        ("scan\thappy\nx/b.png\tsad\n", {"scan": "happy", "x/b.png": "sad"}),
        ("x/b.png\thappy\nscan\t\n", {"scan": None, "x/b.png": "happy"}),
        ("gone.JPG\tnan\nx/b.png\tsad\n", {"gone.JPG": None, "x/b.png": "sad"}),
        ("0\tx/b.png\tsad\n1\tscan\thappy\n", {"scan": "happy", "x/b.png": "sad"}),
        ("\tpath\tlabel\n0\tx/b.png\tsad\n", {"x/b.png": "sad"}),
    ):
        table.write_text(text, encoding="utf-8")
        assert {path: label for path, (label, _, _) in labels(table).items()} == expected


def test_rows_that_cannot_be_used_are_listed_and_do_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    table = tmp_path / "t.csv"
    rows = [f"{i}.png,happy,train,1,2,30,40" for i in range(1000)]
    rows[3], rows[5], rows[7] = ",sad,train,,,,", "x.png,sad,someday,,,,", "y.png,sad,test,9,9,1,1"
    rows += [
        "0.png,sad,train,,,,",
        "z.png,nan,NaN,,,,",
        '"open.png,sad,train,,,,',
        "w.png,sad,test,1,2,3,vier",
    ]
    table.write_text("path,label,split,left,top,right,bottom\n" + "\n".join(rows) + "\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        data = load_dataset(table)
    assert len(data) == 997 + 2
    assert data.labels[data.paths == "z.png"].tolist() == [None]
    assert "open.png" in data.paths
    assert left_out_counts(data.left_out) == {
        "no path": 1, "expected train, val or test as split": 1,
        "another row of the same image, with another class": 1,
        "expected a box with left < right and top < bottom": 1, "expected four numbers as box": 1,
    }  # fmt: skip
    assert caplog.messages[-1].startswith("5 rows not read: no path 1, ")


def test_excel_with_decimal_commas_and_its_own_first_line(tmp_path: Path):
    table = tmp_path / "t.csv"
    text = "sep=;\r\nDatei;path;label;x;y;w;h\r\n1;a.png;기쁨;10,5;2;20,25;30\r\n2;b.png;슬픔;;;;\r\n"
    table.write_bytes(text.encode("utf-8-sig"))
    a, b = load_dataset(table).samples
    assert (a.box, b.box) == ((10.5, 2.0, 30.75, 32.0), None)


def test_several_faces_of_one_image_give_the_largest(tmp_path: Path):
    table = tmp_path / "t.csv"
    table.write_text(
        "path,label,face_x,face_y,face_width,face_height\na.png,sad,0,0,5,5\na.png,happy,0,0,9,9\n"
    )
    data = load_dataset(table)
    assert (data.samples[0].label, data.samples[0].box) == ("happy", (0, 0, 9, 9))
    assert left_out_counts(data.left_out) == {"another row of the same image": 1}


def test_names_are_found_whatever_the_case_if_only_one_fits(tmp_path: Path):
    write(tmp_path, "Faces/A.PNG", "Faces/b.png", "Faces/B.png")
    source = FileSource(tmp_path)
    assert source.read("faces\\a.png".replace("\\", "/")) == PNG
    assert source.stamp("FACES/B.png").size == len(PNG)
    with pytest.raises(FileNotFoundError, match="only in case"):
        source.read("faces/b.PNG")
    with pytest.raises(FileNotFoundError, match="No such file"):
        source.read("faces/c.png")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_no_table_leads_to_a_traceback(tmp_path_factory, content: bytes):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        read = len(load_dataset(path))
    except DataError:
        read = 0
    assert read <= len(content)


# Arrays


def npy(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    ("content", "what"),
    [(npy((10**6, 10**6)), "claims 1,000,000,000,000 bytes and has 0"), (npy((2**62, 2**62)), "claims"),
     (npy((1, 2, 2), b"abc"), "claims 4 bytes and has 3"), (b"no array", r"expected arrays 'images'")],
)  # fmt: skip
def test_arrays_that_claim_what_they_have_not(tmp_path: Path, content: bytes, what: str):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content)
    with pytest.raises(DataError, match=what):
        load_dataset(tmp_path / "x.npz")


def test_members_that_are_no_arrays_are_left_out(tmp_path: Path):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 4, 4), np.uint8), labels=np.array([0, np.nan, 1]),
             split=np.array(["훈련", "Training", "test"]), groups=np.array(["a", "nan", ""]))  # fmt: skip
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("README.txt", "hello")
    data = load_dataset(tmp_path / "x.npz")
    assert data.labels.tolist() == ["1", "0", None]
    assert data.groups.tolist() == [None, "a", None]
    assert data.left_out == (("README.txt", "not an array"),)


# Archives


def zipped(path: Path, members: dict[bytes, bytes], *, utf8: bool = False) -> Path:
    """A zip as other systems write it: names are bytes, with or without the mark of UTF-8."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, content in enumerate(members.values()):
            archive.writestr(f"{i:04d}".ljust(40, "_"), content)
    raw = path.read_bytes()
    for i, name in enumerate(members):
        assert len(name) == 40
        raw = raw.replace(f"{i:04d}".ljust(40, "_").encode(), name)
    if utf8:
        raw = raw.replace(b"PK\x03\x04\x14\0\0\0", b"PK\x03\x04\x14\0\0\x08")
        raw = raw.replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\0\x08")
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("encoding", ["cp949", "utf-8"])
def test_a_zip_is_read_as_a_folder_whatever_its_names_are_in(tmp_path: Path, encoding: str):
    names = [f"사진/{cls}/{i}.png" for cls in ("기쁨", "슬픔") for i in range(2)]
    members = {}
    for i, name in enumerate(names):
        stem, _, _ = name.rpartition(".")
        raw = stem.encode(encoding)
        members[raw + b"_" * (36 - len(raw)) + b".png"] = encoded("PNG", 10 * i)
    data = load_dataset(zipped(tmp_path / "d.zip", members))
    assert data.class_counts() == {"기쁨": 2, "슬픔": 2}
    assert sorted(int(data.read(s).mean()) for s in data.samples) == [0, 10, 20, 30]
    assert isinstance(data.source, ArchiveSource)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_are_read_as_folders(tmp_path: Path, mode: str):
    suffix = mode.replace("w:", ".").replace("w", "")
    path = tmp_path / f"d.tar{suffix}"
    write(tmp_path / "in", "train/happy/a.png", "test/sad/b.png", "test/sad/notes.txt")
    os.mkfifo(tmp_path / "in/test/sad/c.png")
    with tarfile.open(path, mode) as archive:
        archive.add(tmp_path / "in", "set")
        evil = tarfile.TarInfo("../../evil.png")
        evil.size = len(PNG)
        archive.addfile(evil, io.BytesIO(PNG))
    data = load_dataset(path)
    assert labels(path) == {
        "set/test/sad/b.png": ("sad", "test", None), "set/train/happy/a.png": ("happy", "train", None),
    }  # fmt: skip
    assert dict(data.left_out) == {
        "set/test/sad/c.png": "not a regular file", "set/test/sad/notes.txt": ".txt",
        "../../evil.png": "name that leads out of the archive",
    }  # fmt: skip
    assert data.source.read("set/train/happy/a.png") == PNG
    assert data.source.stamp("set/train/happy/a.png").size == len(PNG)
    export_folder(data, tmp_path / "out")
    assert (tmp_path / "out/train/happy/a.png").read_bytes() == PNG


def test_encrypted_split_and_damaged_archives_are_refused_with_the_remedy(tmp_path: Path):
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("happy/a.png", PNG)
    whole = path.read_bytes()
    locked = whole.replace(b"PK\x03\x04\x14\0\0\0", b"PK\x03\x04\x14\0\x01\0")
    path.write_bytes(locked.replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\x01\0"))
    with pytest.raises(DataError, match="encrypted; unpack it with its password"):
        load_dataset(path)
    for content in (whole[:-30], b"PK\x03\x04", b"", b"x" * 3000):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read as an archive .*join them first"):
            load_dataset(path)
    for name in ("d.z01", "d.zip.001", "d.7z", "d.egg"):
        (tmp_path / name).write_bytes(whole)
        with pytest.raises(DataError, match="first, and give the folder"):
            load_dataset(tmp_path / name)


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "_LARGE", 2**20)
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 2**19)
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(5):
            archive.writestr(f"happy/{i}.bmp", bytes(2**18 + i))
        archive.writestr("happy/huge.bmp", bytes(2**20))
    with pytest.raises(DataError, match="would unpack to"):
        load_dataset(path)
    with tarfile.open(tmp_path / "d.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("happy/a.bmp")
        member.size = 2**22
        archive.addfile(member, io.BytesIO(bytes(2**22)))
    with pytest.raises(DataError, match="it unpacks to more than"):
        load_dataset(tmp_path / "d.tgz")


def test_a_damaged_image_in_an_archive_is_an_error_of_its_own(tmp_path: Path):
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("happy/a.png", PNG)
        archive.writestr("happy/b.png", PNG[::-1])
    path.write_bytes(path.read_bytes().replace(PNG, PNG[:-1] + b"\0"))
    data = load_dataset(path)
    with pytest.raises(OSError, match="damaged in the archive"):
        data.read(data.samples[0])
    with pytest.raises(ImageError, match="known format"):
        data.read(data.samples[1])
    content = path.read_bytes().replace(b"PK\3\4\x14\0\0\0\0", b"PK\3\4\x14\0\0\0\t")
    path.write_bytes(content.replace(b"PK\1\2\x14\3\x14\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0\t"))
    data = load_dataset(path)
    with pytest.raises(OSError, match="unpack the archive"):  # Deflate64
        data.read(data.samples[0])


def test_columns_of_a_data_set(tmp_path: Path):
    data = read_folder(write(tmp_path, "train/happy/p1_a.png", "test/sad/p2_b.png", "train/c.png"), "^(p.)_")
    assert data.paths.tolist() == ["test/sad/p2_b.png", "train/c.png", "train/happy/p1_a.png"]
    assert data.labels.tolist() == ["sad", None, "happy"]
    assert data.splits.tolist() == ["test", "train", "train"]
    assert data.groups.tolist() == ["p2", None, "p1"]
    assert data.paths is data.paths


def test_what_is_predicted_may_lie_in_an_archive_or_fit_a_pattern(tmp_path: Path):
    write(tmp_path, "a/1.png", "a/2.png", "a/3.txt")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("day 1/b.png", PNG)
    given = GivenImages([tmp_path / "a/*.png", tmp_path / "d.zip"])
    assert [Path(name).relative_to(tmp_path).as_posix() for name in given.names] == [
        "a/1.png",
        "a/2.png",
        "d.zip/day 1/b.png",
    ]
    assert all(given.read(name) == PNG for name in given.names)


# More of what people have


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "t.csv").write_bytes(text.encode(encoding))
    return write(folder, "a/1.png", "a/2.png", "a/3 x.png") / "t.csv"


@pytest.mark.parametrize(
    "text",
    [
        "얼굴 목록,,\n\n,,구분 정보\n파일,감정,구분\n{}\n",
        "# made by a tool\npath;label;split\n{}\n",
        "path,label,split,,\n{},,\n,,,,\n",
        "\ufeffpath,label,split\n{}\n\ufeffpath,label,split\n\ufeff",
        '"path","label","split"\n"1",{}\n',
        "ｐａｔｈ,ｌａｂｅｌ,ｓｐｌｉｔ\n{}\n\x1a",
        "id,path,label,split\n7,{}\n",
        'label,path,split\n="기쁨",{0}',
    ],
    ids=[
        "titles",
        "remark",
        "empty columns",
        "put together",
        "row names of R",
        "wide",
        "index",
        "text for Excel",
    ],
)
def test_the_header_is_found(tmp_path: Path, text: str):
    row = text.replace("{}", "a/1.png,기쁨,train").replace("{0}", "a/1.png,train")
    sign = ";" if ";" in text else ","
    for encoding in ("utf-8", "utf-16", "utf-32"):
        assert labels(table(tmp_path, row.replace(",", sign), encoding)) == {
            "a/1.png": ("기쁨", "train", None)
        }


@pytest.mark.parametrize(
    "path",
    ["file://{}/a/3%20x.png", "a/3%20x.png", "~/a/3 x.png", "C:\\Users\\kim\\a\\3 x.png", "/gone/faces/a/3 x.png",
     "A\\3 X.PNG", "a/3 x", "\u200b a/3 x.png\xa0".strip("\u200b")],
)  # fmt: skip
def test_an_image_is_found_however_its_path_is_written(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = load_dataset(table(tmp_path, f"path,label\n{path.format(tmp_path)},x\n"))
    assert data.read(data.samples[0]).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("row", "why"),
    [("a/2,5.png,happy", "more cells than columns"), ("path,label", "the header once more"),
     ("https://example.org/2.png,sad", "an address"), ("a/2.png,s\0d", "UTF-8 or CP949"),
     ("a/\0.png,sad", "zero bytes"),
     ("a/2.png,tr\udce8s", "UTF-8 or CP949")],
)  # fmt: skip
def test_rows_that_say_something_else_are_listed(tmp_path: Path, row: str, why: str):
    file = table(tmp_path, "")
    text = f"path,label\na/1.png,happy\n{row}\n" + "".join(f"b{i}.png,sad\n" for i in range(30))
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    data = load_dataset(file)
    assert len(data) == 31
    ((_, reason),) = data.left_out
    assert why in reason
    assert "row 3" in reason


@pytest.mark.parametrize(
    ("label", "read"),
    [("1.0", "1"), ("-1.00", "-1"), ("01", "01"), ("1.5", "1.5"), ("None", None), ("none", "none"), ("N/A", None),
     ("NULL", None), ("#REF!", None), (" \u3000", None), ("\u200bhappy\xa0", "happy"), ("a|b", "a|b")],
)  # fmt: skip
def test_what_a_label_says(tmp_path: Path, label: str, read: str | None):
    assert labels(table(tmp_path, f"path,label\na/1.png,{label}\n")) == {"a/1.png": (read, None, None)}


def test_tables_that_are_none_are_refused_in_a_short_line(tmp_path: Path):
    wide = "emotion," + ",".join(f"pixel{i}" for i in range(2304)) + "\n"
    for text, what in [("\n\n", "found nothing"), (wide, "2,293 more"), ("PK\x03" + "\0" * 99, "CSV UTF-8")]:
        with pytest.raises(DataError, match=what) as refused:
            load_dataset(table(tmp_path, text))
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("header", "row", "read"),
    [("pixels", "{}", (None, None)), ("emotion,pixels", "1.0,{}", ("disgust", None)),
     ("label,pixels,split", "행복,{},val", ("행복", "val")),
     ("emotion, Usage, pixels", '3, Public Test,"[{}]"', ("happy", "val"))],
)  # fmt: skip
@pytest.mark.parametrize("side", [48, 96])
def test_tables_of_pixels_have_many_forms(tmp_path: Path, header: str, row: str, read: tuple, side: int):
    good, bad = row.format(" ".join(["7"] * side**2)), row.format("1 2 3 4")
    data = load_dataset(table(tmp_path, f"{header}\n{bad}\n{good}\n{good}\n"))
    assert {(sample.label, sample.split) for sample in data.samples} == {read}
    assert data.read(data.samples[0]).shape == (side, side, 3)
    assert len(data.left_out) == 1


@pytest.mark.parametrize(
    ("train", "test"),
    [("fer_train", "fer_test"), ("학습_원천데이터", "시험_원천데이터"), ("Private_Test 2", "Training")],
)
def test_splits_differ_from_each_other_in_one_word(tmp_path: Path, train: str, test: str):
    write(tmp_path, *(f"{part}/{cls}/1.png" for part in (train, test) for cls in ("happy", "sad")))
    assert {split for _, split, _ in labels(tmp_path).values()} == {"train", "test"}
    assert {group for _, _, group in labels(tmp_path).values()} == {None}


def test_splits_below_the_classes_are_splits(tmp_path: Path):
    write(tmp_path, *(f"{cls}/{part}/1.png" for part in ("훈련", "시험") for cls in ("기쁨", "슬픔")))
    assert labels(tmp_path)["기쁨/시험/1.png"] == ("기쁨", "test", None)
    assert labels(tmp_path)["슬픔/훈련/1.png"] == ("슬픔", "train", None)


def test_nobody_hears_of_folders_of_the_system(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path, "happy/1.png", "sad/1.png", "@eaDir/1.png", "$RECYCLE.BIN/x/1.png", "happy\u200b/2.png")
    with caplog.at_level(logging.INFO):
        assert load_dataset(tmp_path).class_counts() == {"happy": 2, "sad": 1}
    assert not caplog.messages


@pytest.mark.parametrize("given", ["", b"faces", None, 3])
def test_what_is_no_path_is_refused(given: object):
    with pytest.raises(DataError, match="expected a path or an address"):
        load_dataset(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("x.xlsx", "CSV UTF-8"),
        ("x.tar.zst", "unpack it"),
        ("x.parquet", "CSV UTF-8"),
        ("x.h5", "numpy.savez"),
        ("x.json", "import coco"),
        ("x.png", "folder of images"),
    ],
)
def test_what_is_not_read_has_a_remedy(tmp_path: Path, name: str, remedy: str):
    with pytest.raises(DataError, match=remedy):
        load_dataset(write(tmp_path, name) / name)


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip", "x.tar"])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_what_an_archive_is_says_its_content(tmp_path: Path, name: str, mode: str):
    with tarfile.open(tmp_path / name, mode) as file:
        for path in ("happy/1.png", "sad/1.png", "C:/sad/2.png"):
            (entry := tarfile.TarInfo(path)).size = len(PNG)
            file.addfile(entry, io.BytesIO(PNG))
    data = load_dataset(tmp_path / name)
    assert data.class_counts() == {"happy": 1, "sad": 1}
    assert [path for path, _ in data.left_out] == ["C:/sad/2.png"]


def test_a_number_of_pixels_next_to_a_path_is_no_image(tmp_path: Path):
    assert labels(table(tmp_path, "path,label,pixels\na/1.png,happy,256\n")) == {
        "a/1.png": ("happy", None, None)
    }


@pytest.mark.parametrize(
    "name", ["ftp://nowhere.invalid/a.png", "data:image/png;base64,AAAA", "file:///a.png"]
)
def test_what_is_no_path_to_an_image_is_one_that_cannot_be_read(name: str):
    images = GivenImages(name)
    with pytest.raises((OSError, ImageError)):
        images.read(images.names[0])
    with pytest.raises(DataError, match="expected a path"):
        GivenImages("")


@pytest.mark.parametrize("order", [("utf-8", "cp949"), ("cp949", "utf-8")])
def test_rows_of_two_encodings_are_read_in_both(tmp_path: Path, order: tuple[str, str]):
    file = table(tmp_path, "")
    file.write_bytes("경로,감정\na/1.png,기쁨\n".encode(order[0]) + "a/2.png,슬픔\n".encode(order[1]))
    assert labels(file) == {"a/1.png": ("기쁨", None, None), "a/2.png": ("슬픔", None, None)}
