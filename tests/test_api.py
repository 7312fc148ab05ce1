"""The public API: what a newcomer types, on real files, and what is said when it is wrong."""

import contextlib
import inspect
import io
import json
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ferkit
from ferkit.datasets.synthetic import write_dataset


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_dataset(folder, n_per_class=6, n_persons=8)
    return folder


def test_exactly_these_names_are_public():
    assert set(ferkit.__all__) - {"__version__"} == {
        "predict", "load_model", "Model", "load_dataset", "Dataset", "load_embedder", "embed", "EmbeddingStore",
        "fit", "finetune", "evaluate", "compare", "ExpressionStream", "LabelSet", "FerkitError", "Teacher",
    }  # fmt: skip
    assert all(getattr(ferkit, name) is not None for name in ferkit.__all__)


def test_type_checkers_see_the_same_names():
    import ast

    tree = ast.parse(Path(ferkit.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        for inner in node.body
        if isinstance(inner, ast.ImportFrom)
        for alias in inner.names
    }
    assert seen == set(ferkit.__all__) - {"__version__"}


@pytest.mark.slow
def test_mypy_finds_wrong_calls(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(
        'import ferkit\nferkit.load_dataset(42, nonsense=True)\nferkit.predict("a.jpg")[0].faces\n'
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--ignore-missing-imports",
        "--follow-imports=silent",
        str(program),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(ferkit.__file__).parents[1]
    )
    assert "program.py:2" in done.stdout, done.stdout + done.stderr
    assert "program.py:3" not in done.stdout
    assert "nonsense" in done.stdout


@pytest.mark.parametrize("name", ["Sample", "load_classifier", "open_embedder"])
def test_names_of_0_1_still_work_and_say_what_to_use(name: str):
    with pytest.warns(DeprecationWarning, match=r"goes with version 0\.3"):
        assert getattr(ferkit, name) is not None


def test_images_in_every_form_give_the_same_faces(faces: Path):
    path = sorted(faces.rglob("*.png"))[0]
    rgb = np.asarray(Image.open(path).convert("RGB"))
    forms = [
        path,
        str(path),
        rgb,
        Image.open(path),
        [path],
        rgb[None],
        str(path.parent / (path.name[:-1] + "?")),
    ]
    found = [ferkit.predict(form, detector="none")[0].faces[0] for form in forms]
    assert all(face == found[0] for face in found)
    assert sum(found[0].probabilities.values()) == pytest.approx(1, abs=1e-3)
    assert found[0].confidence == max(found[0].probabilities.values())
    assert (
        ferkit.LabelSet.from_names(list(found[0].probabilities)).names
        == ferkit.load_model("ferkit").labels.names
    )


def test_folders_give_a_row_for_each_face(faces: Path, tmp_path: Path):
    found = ferkit.predict(faces, detector="none")
    assert len(found) == len(list(faces.rglob("*.png")))
    table = found.to_pandas()
    assert list(table.columns[:8]) == [
        "path",
        "face",
        "left",
        "top",
        "right",
        "bottom",
        "label",
        "confidence",
    ]
    assert len(table) == len(found)
    assert np.allclose(table.filter(like="p_").sum(axis=1), 1, atol=1e-3)
    json.dumps(found.to_dict())
    first = found[0]
    assert first.plot().dtype == np.uint8
    assert Image.open(first.save(tmp_path / "out.png")).size[0] >= 64
    (like,) = first.deepface_format()
    assert like["dominant_emotion"] == first.faces[0].label
    assert sum(like["emotion"].values()) == pytest.approx(100, abs=0.1)


def test_faces_become_detections_of_supervision():
    sv = pytest.importorskip("supervision", reason="needs supervision")
    from ferkit.classifiers.predict import FaceResult, ImageResult
    from ferkit.core.labels import LabelSet

    labels = LabelSet(("기쁨", "슬픔"))
    faces = (
        FaceResult((1.5, 2, 30, 40), "슬픔", 0.75, {"기쁨": 0.25, "슬픔": 0.75}),
        FaceResult((50, 2, 60, 12), "기쁨", 0.5, {"기쁨": 0.5, "슬픔": 0.5}),
    )
    rgb = np.zeros((48, 64, 3), np.uint8)
    found, nothing = (
        ImageResult("a.jpg", some, False, None, labels, lambda: rgb).to_supervision() for some in (faces, ())
    )
    assert found.xyxy.tolist() == [[1.5, 2, 30, 40], [50, 2, 60, 12]]
    assert found.class_id.tolist() == [1, 0]
    assert found[found.confidence > 0.6]["class_name"].tolist() == ["슬픔"]
    assert len(nothing) == 0
    drawn = sv.LabelAnnotator().annotate(sv.BoxAnnotator().annotate(rgb.copy(), found), found)
    assert drawn.any()
    assert not sv.BoxAnnotator().annotate(rgb.copy(), nothing).any()


def test_what_cannot_be_read_has_a_reason(tmp_path: Path):
    (tmp_path / "notes.jpg").write_text("no image")
    lost, broken = ferkit.predict([tmp_path / "lost.jpg", tmp_path / "notes.jpg"])
    assert lost.error
    assert broken.error
    assert lost.faces == broken.faces == ()
    with pytest.raises(ferkit.FerkitError, match="lost"):
        lost.plot()


@pytest.mark.parametrize(
    "given", [42, None, [3.5], np.zeros((4, 4)), np.zeros((4, 4, 3)), b"bytes", [], {"a": 1}]
)
def test_other_things_are_refused_in_one_sentence(given: object):
    with pytest.raises(ferkit.FerkitError, match="expected") as error:
        ferkit.predict(given)
    assert "\n" not in str(error.value)


def test_wrong_types_get_one_sentence(tmp_path: Path):
    for call in (
        lambda: ferkit.load_dataset(42),
        lambda: ferkit.load_model(42),
        lambda: ferkit.fit(42),
        lambda: ferkit.embed(42),
        lambda: ferkit.evaluate(42, tmp_path),
        lambda: ferkit.compare(42),
        lambda: ferkit.predict(np.zeros((9, 9, 3), np.uint8), model=42),
    ):
        with pytest.raises(ferkit.FerkitError, match="found int"):
            call()


PUBLIC = [
    *(getattr(ferkit, name) for name in ferkit.__all__ if inspect.isfunction(getattr(ferkit, name))),
    ferkit.ExpressionStream, ferkit.EmbeddingStore.open, ferkit.LabelSet.named, ferkit.LabelSet.from_text,
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "name"),
    [(f, n) for f in PUBLIC for n in inspect.signature(f).parameters if n not in ("images", "tables")],
    ids=lambda value: value if isinstance(value, str) else value.__qualname__,
)
def test_no_argument_of_a_wrong_type_ends_in_python_s_own_words(
    function: Callable[..., object], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    for junk in (object(), 3j, [object()], {object(): 1}, np.zeros((2, 2), complex)):
        with pytest.raises(ferkit.FerkitError, match=rf"^expected {name} as [^\n]+, found \w+$"):
            function(**{**dict.fromkeys(needed, "nothing-here"), name: junk})


def test_numbers_out_of_range_are_refused_in_one_sentence(faces: Path):
    for call, name in (
        (lambda: ferkit.predict("x", batch_size=0), "batch_size"),
        (lambda: ferkit.predict("x", workers=np.int64(-1)), "workers"),
        (lambda: ferkit.load_embedder("raw", threads=0), "threads"),
        (lambda: ferkit.fit("x", seed=-1), "seed"),
        (lambda: ferkit.fit("x", C=float("inf")), "C"),
        (lambda: ferkit.embed("x", no_face="maybe"), "no_face"),
        (lambda: ferkit.embed("x", cache_dir="a\0b"), "cache_dir"),
        (lambda: ferkit.predict(str(faces), detector="maybe"), "no detector is called 'maybe'"),
    ):
        with pytest.raises(ferkit.FerkitError, match=name):
            call()


def test_numbers_of_numpy_are_numbers(faces: Path, tmp_path: Path):
    store = ferkit.embed(faces, "raw", detector="none", cache_dir=tmp_path, batch_size=np.int32(8))
    model = ferkit.fit(
        store, "logistic", C=np.float32(0.5), seed=np.int64(3), class_weights={"sad": np.float64(2)}
    )
    assert model.record.parts["head"]["settings"]["C"] == 0.5
    ferkit.fit(store, "mlp", hidden=(np.int64(4),), max_epochs=np.uint8(1), labels=np.array(["sad", "happy"]))


def test_pillow_s_images_and_columns_of_names_are_read_like_their_files(faces: Path, tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.open(next(faces.rglob("*.png"))).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(tmp_path / "b.png")
    names = sorted(map(str, tmp_path.glob("*.png")))
    found = [image.faces for image in ferkit.predict(names, detector="none")]
    for images in (
        [Image.open(name) for name in names],
        np.array(names),
        pandas.Series(names),
        pandas.DataFrame(names),
    ):
        assert [image.faces for image in ferkit.predict(images, detector="none")] == found
    cut = Image.open(io.BytesIO(Path(names[0]).read_bytes()[:-99]))
    bad, good = ferkit.predict([cut, *names[1:]], detector="none")
    assert "damaged" in bad.error
    assert good.faces == found[1]


def test_what_was_used_can_be_pickled(faces: Path, tmp_path: Path):
    crops = np.zeros((2, 48, 48, 3), np.uint8)
    model, embedder = ferkit.load_model("ferkit"), ferkit.load_embedder("ferkit", layer="stage2")
    for predict in (model.predict_proba, embedder.embed):
        again = getattr(pickle.loads(pickle.dumps(predict.__self__)), predict.__name__)
        assert np.array_equal(again(crops), predict(crops))
    found = ferkit.predict([next(faces.rglob("*.png")), crops[0]], detector="none")
    for one, again in zip(found, pickle.loads(pickle.dumps(found)), strict=True):
        assert np.array_equal(one.plot(), again.plot())


def test_a_store_in_which_all_failed_says_why(tmp_path: Path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "table.csv").write_text("path,label,left,top,right,bottom\na.png,happy,50,50,90,90\n")
    store = ferkit.embed(tmp_path / "table.csv", "raw", cache_dir=tmp_path / "cache")
    with pytest.raises(
        ferkit.FerkitError, match=r"none of the 1 images could be embedded; the first, a\.png: "
    ):
        store.load()


def test_no_new_model_takes_the_name_of_one_that_comes_along(tmp_path: Path):
    with pytest.raises(ferkit.FerkitError, match="ferkit2 is that of a model that comes with ferkit"):
        ferkit.load_model("ferkit").save(tmp_path / "ferkit2")


def test_a_text_is_no_list_of_its_letters():
    for call in (ferkit.LabelSet, ferkit.LabelSet.from_names, lambda text: ferkit.fit("x", labels=text)):
        with pytest.raises(ferkit.FerkitError, match="expected"):
            call(np.array("sad"))
        with pytest.raises(ferkit.FerkitError, match="expected"):
            call("sad")


def test_methods_refuse_other_types_too(faces: Path, tmp_path: Path):
    data = ferkit.load_dataset(faces)
    store = ferkit.embed(data, "raw", detector="none", cache_dir=tmp_path / "cache")
    model = ferkit.load_model("ferkit")
    (result,) = ferkit.predict(sorted(faces.rglob("*.png"))[0], detector="none")
    methods = (
        data.read, data.subset, store.load, model.save, model.predict, model.predict_proba, model.labels.display,
        model.labels.map_to, result.plot, result.save, ferkit.Teacher("ferkit").resume, ferkit.LabelSet.from_names,
        ferkit.evaluate("ferkit", data).summary,
    )  # fmt: skip
    for method in methods:
        for junk in (42, object(), [3j], {1: object()}, "", b"x"):
            if junk == "" and method in (model.save, result.save, model.labels.display, result.plot):
                continue
            with pytest.raises(ferkit.FerkitError):
                method(junk)


OPENERS = (
    ferkit.load_model, ferkit.load_dataset, ferkit.load_embedder, ferkit.EmbeddingStore.open,
    ferkit.LabelSet, ferkit.LabelSet.named, ferkit.LabelSet.from_text,
)  # fmt: skip
ANYTHING = st.one_of(
    st.sampled_from([None, np.zeros(0), np.zeros((2, 2)), Path(), Path("a"), Path("/dev/null"), Path("\0")]),
    st.integers(),
    st.floats(),
    st.text("ab*[:@?\n\0가", max_size=9),
    st.binary(max_size=3),
    st.lists(st.text(), max_size=2),
)


@settings(deadline=None)
@given(st.sampled_from(OPENERS), ANYTHING)
def test_anything_is_opened_or_refused_in_one_sentence(function: Callable[[object], object], given: object):
    said = ""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        try:
            function(given)
        except ferkit.FerkitError as error:
            said = str(error)
    assert "\n" not in said


def test_addresses_are_fetched_only_from_where_they_may(faces: Path):
    path = sorted(faces.rglob("*.png"))[0]

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(path.parent))

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/{path.name}"
        (refused,) = ferkit.predict(address, detector="none")
        assert "public" in refused.error or "private" in refused.error
        (found,) = ferkit.predict(address, detector="none", private_hosts=True)
        assert found.faces == ferkit.predict(path, detector="none")[0].faces
        (lost,) = ferkit.predict(address + "x", detector="none", private_hosts=True)
        assert lost.error
    finally:
        server.shutdown()


def test_from_images_to_a_model_and_back(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    data = ferkit.load_dataset(faces, person_pattern=r"^(p\d+)_")
    store = ferkit.embed(data, "raw", detector="none")
    again = ferkit.embed(data, "raw", detector="none")
    assert again.folder == store.folder
    model = ferkit.fit(store, head="logistic", C=0.01)
    assert model.report["n"] > 0
    saved = model.save(tmp_path / "models" / "logistic")
    opened = ferkit.load_model("logistic")
    crops = np.stack([data.read(sample) for sample in data.samples[:3]])
    assert np.allclose(opened.predict_proba(crops), model.predict_proba(crops))
    assert [len(image.faces) for image in opened.predict(sorted(faces.rglob("happy"))[0], detector="none")][
        :1
    ] == [1]
    assert saved.labels.names == opened.labels.names
    report = ferkit.evaluate(opened, data)
    assert "logistic" in report.summary()
    trained = ferkit.evaluate(opened, data, split="train")
    assert f"copies of training images: {len(trained.comparison.y)}" in trained.summary()
    assert report.save(tmp_path / "report").is_file()


def test_a_model_that_was_fitted_leaves_no_folder_behind(faces: Path, tmp_path: Path):
    model = ferkit.fit(ferkit.embed(faces, "raw", detector="none", cache_dir=tmp_path), head="dummy")
    folder = model.folder
    assert folder.is_dir()
    del model
    import gc

    gc.collect()
    assert not folder.exists()


@pytest.mark.shared
def test_a_stream_follows_a_face(shared: Path):
    photo = np.asarray(Image.open(shared / "media" / "img5.jpg").convert("RGB"))
    stream = ferkit.ExpressionStream("ferkit", smoothing="ema", detector="haar")
    results = [stream.process(photo, timestamp_s=i / 10) for i in range(8)]
    assert len({face.track_id for result in results[3:] for face in result.faces}) == 1
    assert results[-1].faces[0].label in stream.process(photo, 1.0).faces[0].probabilities


def test_docstrings_run():
    import doctest

    import ferkit.sklearn

    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    modules = {
        sys.modules[getattr(ferkit, name).__module__] for name in ferkit.__all__ if name != "__version__"
    }
    for module in (*modules, ferkit.sklearn):
        assert doctest.testmod(module, optionflags=flags).failed == 0
    public = [getattr(ferkit, name) for name in ferkit.__all__ if name != "__version__"]
    assert [one.__name__ for one in public if ">>> " not in (one.__doc__ or "")] == []
