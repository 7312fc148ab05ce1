import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.core.errors import (
    DataError,
    FerkitError,
    SettingsMismatchError,
    StoreDamagedError,
    StoreError,
    StoreLockedError,
)
from ferkit.embedder.settings import EmbedderSettings, StoreSettings
from ferkit.embedder.shards import Row
from ferkit.embedder.store import EmbeddingStore, Paths, Snapshot, export_embeddings, find_embeddings
from ferkit.faces.cropping import CropSettings

SETTINGS = StoreSettings(EmbedderSettings("onnx:net.onnx", "ab" * 32, (112, 112)), CropSettings.whole())


def created(
    root: Path, settings: StoreSettings = SETTINGS, name: str = "faces", dim: int = 2
) -> EmbeddingStore:
    return EmbeddingStore.create(root, name, settings, dim=dim, rows_per_shard=4, batch_size=2)


def row(path: str, label: str | None = "happy", error: str | None = None) -> Row:
    return Row(path, label, "train", "p1", 5, "ab" * 32, None, error)


def block(*values: float) -> np.ndarray:
    return np.array([[value, -value] for value in values], np.float32)


def test_a_store_is_made_once_and_found_again(tmp_path: Path):
    store = created(tmp_path)
    assert (
        store.folder.name
        == f"faces--onnx-net--{json.loads((store.folder / 'manifest.json').read_text())['fingerprint'][:8]}"
    )
    before = (store.folder / "manifest.json").read_bytes()
    again = EmbeddingStore.create(tmp_path, "faces", SETTINGS, dim=2, rows_per_shard=99, batch_size=99)
    assert (store.folder / "manifest.json").read_bytes() == before
    assert (again.rows_per_shard, again.batch_size) == (4, 2)
    assert EmbeddingStore.open(store.folder).settings == SETTINGS


@pytest.mark.parametrize(
    "other",
    [
        replace(SETTINGS, dtype="float16"),
        replace(SETTINGS, embedder=replace(SETTINGS.embedder, layer="stage4")),
        replace(SETTINGS, embedder=replace(SETTINGS.embedder, weights_sha256="cd" * 32)),
        replace(SETTINGS, faces=CropSettings("haar", margin=0.2)),
    ],
)
def test_other_settings_are_another_folder(tmp_path: Path, other: StoreSettings):
    assert created(tmp_path).folder != created(tmp_path, other).folder


def test_opening_with_other_settings_names_what_differs(tmp_path: Path):
    folder = created(tmp_path).folder
    other = replace(
        SETTINGS, embedder=replace(SETTINGS.embedder, layer="stage4", scale=0.5), faces=CropSettings("haar")
    )
    with pytest.raises(SettingsMismatchError) as error:
        EmbeddingStore.open(folder, other)
    for key in ("embedder.tap", "embedder.scale", "faces.detector"):
        assert key in str(error.value)
    assert "dtype" not in str(error.value)


def test_no_store_is_said_with_the_remedy(tmp_path: Path):
    with pytest.raises(StoreError, match="run 'fer embed'"):
        EmbeddingStore.open(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", "CON:"])
def test_names_that_no_folder_can_have_are_refused(tmp_path: Path, name: str):
    with pytest.raises(StoreError, match="give another --name"):
        created(tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


def altered(store: EmbeddingStore, change) -> None:
    path = store.folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_a_newer_format_asks_for_an_update(tmp_path: Path):
    store = created(tmp_path)
    altered(store, lambda m: m.update(format=2, settings={"unheard of": True}))
    with pytest.raises(StoreError, match=r"has format 2, this ferkit knows 1; update ferkit"):
        EmbeddingStore.open(store.folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["settings"]["embedder"].update(scale=2.0),
        lambda m: m["settings"].update(dtype="float16"),
        lambda m: m["settings"]["faces"].update(unknown=1),
        lambda m: m["settings"].update(embedder=[]),
        lambda m: m.update(fingerprint="0" * 64),
        lambda m: m.update(dim="many"),
        lambda m: m.update(rows_per_shard=0),
        lambda m: m.update(batch_size=None),
        lambda m: m.update(format="one"),
        lambda m: m.pop("dim"),
        lambda m: m.pop("format"),
        lambda m: m.pop("settings"),
    ],
)
def test_an_altered_manifest_is_noticed(tmp_path: Path, change):
    store = created(tmp_path)
    altered(store, change)
    with pytest.raises(StoreDamagedError, match="was altered after it was written"):
        EmbeddingStore.open(store.folder)


def test_an_altered_dimension_is_noticed_before_any_shard_is_called_damaged(tmp_path: Path):
    store = created(tmp_path)
    altered(store, lambda m: m.update(dim=3))
    with pytest.raises(StoreDamagedError, match=r"manifest\.json was altered"):
        created(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"3"])
def test_a_manifest_that_is_none_is_noticed(tmp_path: Path, content: bytes):
    store = created(tmp_path)
    (store.folder / "manifest.json").write_bytes(content)
    with pytest.raises(StoreDamagedError, match="--repair and the settings"):
        EmbeddingStore.open(store.folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10**5, b'{"format": 1}'])
def test_repair_writes_a_damaged_manifest_anew(tmp_path: Path, content: bytes):
    store = created(tmp_path)
    path = store.folder / "manifest.json"
    before = path.read_bytes()
    for rows in ([row(f"{i}") for i in range(4)], [row("4")]):
        store.append(rows, block(*range(len(rows))), 0)
    path.write_bytes(content)
    with pytest.raises(StoreDamagedError, match="--repair"):
        created(tmp_path)
    again = EmbeddingStore.create(
        tmp_path, "faces", SETTINGS, dim=2, rows_per_shard=99, batch_size=2, repair=True
    )
    assert path.read_bytes() == before
    assert len(again.load()) == 5


def test_many_writers_start_at_once_and_nobody_stumbles(tmp_path: Path):
    def start(number: int) -> str:
        store = created(tmp_path)
        try:
            with store.writing():
                return "wrote"
        except StoreLockedError:
            return "waited"

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(start, range(200)))
    assert "wrote" in said
    assert set(said) <= {"wrote", "waited"}
    assert sorted(path.name for path in created(tmp_path).folder.iterdir()) == [".lock", "manifest.json"]


def test_rows_come_back_sorted_by_path_without_failures_and_the_newest_counts(tmp_path: Path):
    store = created(tmp_path)
    store.append([row("b"), row("d", error="damaged")], block(1, np.nan), 0)
    store.append([row("a"), row("c")], block(2, 3), 0)
    store.append([row("b", "sad")], block(4), 0, fill_gaps=False)
    table = store.load()
    assert table.paths.tolist() == ["a", "b", "c"]
    assert table.X.tolist() == [[2, -2], [4, -4], [3, -3]]
    assert table.y.tolist() == ["happy", "sad", "happy"]
    assert table.groups.tolist() == ["p1"] * 3
    assert table.split.tolist() == ["train"] * 3
    assert [r.path for r in store.failures()] == ["d"]


def test_the_view_hides_what_was_deleted_and_gives_new_labels(tmp_path: Path):
    store = created(tmp_path)
    store.append([row("a"), row("b"), row("c", error="damaged")], block(1, 2, np.nan), 0)
    store.write_view(Snapshot("/data", 1, deleted=["a", "c"], relabelled={"b": ["sad", "test", None]}))
    table = store.load()
    assert table.paths.tolist() == ["b"]
    assert (table.y[0], table.split[0], table.groups[0]) == ("sad", "test", None)
    assert store.failures() == []
    store.write_view(Snapshot("/data", 3))
    assert store.load().paths.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"root": 1}', b'{"root": "/", "n_samples": 1, "deleted": null}']
)
def test_a_damaged_view_is_noticed(tmp_path: Path, content: bytes):
    store = created(tmp_path)
    (store.folder / "view.json").write_bytes(content)
    with pytest.raises(StoreDamagedError, match="delete this file"):
        store.view()


def test_an_empty_store_says_so(tmp_path: Path):
    with pytest.raises(DataError, match="found none; run 'fer embed' to its end"):
        created(tmp_path).load()


def test_more_rows_than_fit_into_memory_are_refused_with_what_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = created(tmp_path)
    store.append([row("a"), row("b")], block(1, 2), 0)
    monkeypatch.setattr("ferkit.embedder.store.free_memory", lambda: 15.0)
    with pytest.raises(
        DataError, match=r"2 embeddings of 2 numbers take .*; only 'fer fit' and 'fer dataset export'"
    ):
        store.load()
    assert np.asarray(store.load(mapped=True).X).tolist() == [[1, -1], [2, -2]]


def test_labels_can_be_demanded(tmp_path: Path):
    store = created(tmp_path)
    store.append([row("a", None)], block(1), 0)
    with pytest.raises(DataError, match="found none with a label"):
        store.load().labelled()
    store.append([row("b")], block(2), 0)
    assert store.load().labelled().paths.tolist() == ["b"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_halves_are_stored_as_halves_and_loaded_as_asked(tmp_path: Path, dtype: str):
    store = created(tmp_path, replace(SETTINGS, dtype="float16"))
    store.append([row("a")], block(0.1), 0)
    assert np.load(store.folder / "shard-00000.npy").dtype == np.float16
    assert store.load(dtype).X.dtype == dtype
    assert store.load(dtype).X[0, 0] == pytest.approx(0.1, abs=1e-4)


def test_a_repaired_shard_takes_its_old_place_but_replacements_come_last(tmp_path: Path):
    store = created(tmp_path)
    for i, path in enumerate("abc"):
        store.append([row(path)], block(i), 0)
    store.shards()[1].remove()
    store.append([row("c")], block(7), 0, fill_gaps=False)
    assert [shard.number for shard in store.shards()] == [0, 2, 3]
    assert store.load().X[:, 0].tolist() == [0, 7]
    store.append([row("b")], block(1), 0)
    assert [shard.number for shard in store.shards()] == [0, 1, 2, 3]


def test_a_hundred_thousand_shards_stay_in_order(tmp_path: Path):
    store = created(tmp_path)
    for number in (99_999, 100_000, 3):
        (store.folder / f"shard-{number:05d}.json").write_text("{}")
    (store.folder / "shard-notes.json").write_text("{}")
    assert [shard.number for shard in store.shards()] == [3, 99_999, 100_000]


def test_every_damaged_shard_is_found(tmp_path: Path):
    store = created(tmp_path)
    for i in range(4):
        store.append([row(f"{i}")], block(i), 0)
    assert store.verify() == []
    (store.folder / "shard-00001.npy").unlink()
    (store.folder / "shard-00003.json").write_text("{")
    (store.folder / "shard-00009.npy").write_bytes(b"a leftover of a killed run")
    assert [shard.number for shard, _ in store.verify()] == [1, 3]
    assert all("--repair" in reason for _, reason in store.verify())


def test_one_writer_at_a_time_who_clears_what_a_killed_one_left(tmp_path: Path):
    store = created(tmp_path)
    (store.folder / ".shard-00000.npy.x1y2.tmp").write_bytes(b"half")
    with store.writing():
        assert not list(store.folder.glob(".*.tmp"))
        with pytest.raises(StoreLockedError, match="another process is writing to"), store.writing():
            pass


def test_a_cache_that_may_only_be_read_is_named_but_still_read(unprivileged: Path):
    store = created(unprivileged)
    store.append([row("a")], block(1), 0)
    with store.writing():
        pass
    for path in store.folder.iterdir():
        path.chmod(0o444)
    store.folder.chmod(0o555)
    try:
        assert EmbeddingStore.open(store.folder).load().paths.tolist() == ["a"]
        with pytest.raises(FerkitError, match=r"cannot be written .*choose another place"):
            store.append([row("b")], block(1), 0)
        with pytest.raises(FerkitError, match="cannot be written"), store.writing():
            pass
    finally:
        store.folder.chmod(0o755)


def test_a_cache_that_cannot_be_entered_is_named(unprivileged: Path):
    (unprivileged / "cache").mkdir(mode=0)
    with pytest.raises(FerkitError, match="Permission denied"):
        created(unprivileged / "cache")


def read_parquet(path: Path) -> dict[str, list]:
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pydict()


def read_lance(path: Path) -> dict[str, list]:
    return pytest.importorskip("lance").dataset(str(path)).to_table().to_pydict()


@pytest.mark.parametrize(
    ("package", "suffix", "read"),
    [("pyarrow", ".parquet", read_parquet), ("lance", ".lance", read_lance)],
)
def test_embeddings_become_a_table_for_other_programs(tmp_path: Path, package: str, suffix: str, read):
    pytest.importorskip(package)
    store = created(tmp_path, replace(SETTINGS, dtype="float16"))
    store.append([row("d", error="damaged"), row("기쁨/b")], block(np.nan, 1), 0)
    store.append(
        [row("a"), row("c"), Row("x", None, None, None, 5, "cd" * 32, (1, 2, 3, 4))], block(2, 3, 5), 0
    )
    store.append([row("a", "sad")], block(4), 0, fill_gaps=False)
    store.write_view(Snapshot("/data", 4, deleted=["c"], relabelled={"기쁨/b": ["기쁨", "test", None]}))
    for _ in range(2):  # again, over what is there
        assert export_embeddings(store, tmp_path / f"x{suffix}") == 3
    table = read(tmp_path / f"x{suffix}")
    assert table["path"] == ["a", "x", "기쁨/b"]
    assert table["label"] == ["sad", None, "기쁨"]
    assert table["group"] == ["p1", None, None]
    assert table["embedding"] == [[4, -4], [5, -5], [1, -1]]
    assert [table[side][1] for side in ("left", "top", "right", "bottom")] == [1, 2, 3, 4]
    with pytest.raises(DataError, match=r"\.parquet or \.lance"):
        export_embeddings(store, tmp_path / "x.csv")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True).map(sorted), max_size=9))
def test_rows_are_merged_as_a_dictionary_would(shards: list[list[int]]):
    with tempfile.TemporaryDirectory() as folder:
        store = created(Path(folder))
        expected = {}
        for number, paths in enumerate(shards):
            rows = [row(f"{path:02d}", str(number)) for path in paths]
            store.append(rows, block(*paths), 0)
            expected.update({one.path: one for one in rows})
        found = list(store.newest())
        assert [placed.row for placed in found] == [expected[path] for path in sorted(expected)]
        assert all(shards[p.shard][p.position] == int(p.row.path) for p in found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text() | st.binary().map(os.fsdecode), max_size=9), st.data())
def test_paths_are_those_of_a_list(paths: list[str], data: st.DataObject):
    texts = [path.encode("utf-8", "surrogateescape") for path in paths]
    column = Paths(bytearray(b"".join(texts)), np.cumsum([len(text) for text in texts], dtype=np.int64))
    assert list(column) == np.asarray(column).tolist() == paths
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(paths), max_size=len(paths))), bool)
    some = data.draw(st.permutations(range(len(paths))))
    for index in (slice(1, None, 2), mask, np.array(some, np.int64)):
        part = column[index]
        assert list(part) == np.array([*paths, None], object)[:-1][index].tolist()
        assert len(part) == len(part[:]) == len(list(part))


def test_embeddings_are_found_by_path_name_beginning_or_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    for age, name in enumerate(
        ("faces--a--01", "faces--b--02", "faces.zip--a--03", "own--a--04", "other--a--05")
    ):
        (cache / name).mkdir(parents=True)
        for file in ("manifest.json", "view.json"):
            (cache / name / file).write_text("{}")
            os.utime(cache / name / file, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "faces").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "faces.csv").touch()
    for name, found in {
        None: "faces--a--01", "faces/": "faces--a--01", "faces": "faces--a--01", "faces.csv": "faces--a--01",
        "faces--b": "faces--b--02", "cache/faces.zip--a--03": "faces.zip--a--03", "./own": "own--a--04",
        "oth": "other--a--05",
    }.items():  # fmt: skip
        assert find_embeddings(cache, name).name == found, name
    with pytest.raises(DataError, match="several embeddings: faces--a--01, "):
        find_embeddings(cache, "face")
    with pytest.raises(DataError, match=r"expected embeddings of empty in .*; run 'fer embed empty' first"):
        find_embeddings(cache, "empty")
    with pytest.raises(DataError, match="expected embeddings called 'unknown'"):
        find_embeddings(cache, "unknown")
