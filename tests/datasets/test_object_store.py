"""Images and embeddings at addresses: the same rows as from the disk."""

import io
import json
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import BATCH, SHARD, contents, embed, write_images

from ferkit.core.errors import DataError
from ferkit.core.files import as_path, is_local
from ferkit.datasets.dataset import Stamp
from ferkit.datasets.load import load_dataset
from ferkit.datasets.object_store import ReadAhead
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.extract import StoreOptions, embed_dataset
from ferkit.embedder.store import EmbeddingStore, find_embeddings
from ferkit.faces.cropping import Cropping

upath = pytest.importorskip("upath", reason="needs universal-pathlib: pip install 'ferkit[remote]'")


@pytest.fixture
def place():
    """An address in memory, empty before and after."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.store.clear()
    yield "memory://bucket"
    files.store.clear()


def put(folder: Path, address: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            target = as_path(f"{address}/{path.relative_to(folder).as_posix()}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def embed_at(data: str, cache: str | Path, **options):
    asked = StoreOptions(as_path(cache), **{"batch_size": BATCH, "rows_per_shard": SHARD, **options})
    return embed_dataset(load_dataset(data), open_embedder("raw"), Cropping.ask("none"), asked, workers=2)


def test_local_paths_stay_paths(tmp_path: Path):
    for given in (str(tmp_path), tmp_path, "a/b", Path("c:/x")):
        assert is_local(as_path(given))
        assert as_path(given) == Path(given)


def test_a_store_at_an_address_holds_the_bytes_of_one_on_the_disk(tmp_path: Path, place: str):
    data = write_images(tmp_path / "data", 20)
    (data / "sad" / "note.jpg").write_text("dear diary")
    expected, _ = embed(data, tmp_path / "cache")
    put(data, f"{place}/data")
    store, summary = embed_at(f"{place}/data", f"{place}/cache")
    assert (summary.n_done, len(summary.failures)) == (20, 1)
    assert contents(store.folder) == contents(expected.folder)
    table = EmbeddingStore.open(find_embeddings(as_path(f"{place}/cache"))).load()
    assert np.array_equal(table.X, expected.load().X)
    assert embed_at(f"{place}/data", f"{place}/cache")[1].n_kept == 20
    as_path(f"{place}/data/sad/0000.bmp").write_bytes((data / "happy" / "0001.bmp").read_bytes())
    assert embed_at(f"{place}/data", f"{place}/cache")[1].n_done == 1
    as_path(f"{place}/data/sad/0000.bmp").unlink()
    assert embed_at(f"{place}/data", f"{place}/cache")[1].n_deleted == 1


def test_tables_zips_and_arrays_are_read_at_addresses(tmp_path: Path, place: str):
    data = write_images(tmp_path / "data", 6)
    (data / "faces.csv").write_text("path,label\nhappy/0001.bmp,joy\nsad/0000.bmp,grief\n", encoding="utf-8")
    shutil.make_archive(str(tmp_path / "faces"), "zip", data)
    images = np.zeros((3, 8, 8), np.uint8)
    np.savez(tmp_path / "faces.npz", images=images, labels=np.array(["a", "b", "a"]))
    put(data, f"{place}/data")
    for name in ("faces.zip", "faces.npz"):
        as_path(f"{place}/{name}").write_bytes((tmp_path / name).read_bytes())
    assert load_dataset(f"{place}/data/faces.csv").labels.tolist() == ["joy", "grief"]
    for at in ("data/faces.csv", "faces.zip", "faces.npz"):
        there, here = load_dataset(f"{place}/{at}"), load_dataset(tmp_path / at)
        assert there.samples == here.samples
        assert np.array_equal(there.read(there.samples[0]), here.read(here.samples[0]))
        assert str(there.root) == f"{place}/{at}"
        assert there.source.stamp(there.samples[0].path).size == here.source.stamp(here.samples[0].path).size
    with pytest.raises(DataError, match="found nothing at"):
        load_dataset(f"{place}/nowhere")


def tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("where", ["disk", "address"])
def test_webdataset_tars_have_their_labels_next_to_the_images(tmp_path: Path, place: str, where: str):
    root = tmp_path / "wds"
    root.mkdir()
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 90).save(buffer, "PNG")
    for shard in range(2):
        files: dict[str, bytes] = {}
        for i in range(5):
            files[f"{i:04d}.png"] = buffer.getvalue()
            if i % 2:
                files[f"{i:04d}.json"] = json.dumps({"label": "행복", "person": f"p{i}"}).encode()
            else:
                files[f"{i:04d}.cls"] = b"sad\n"
        tar(root / f"train-{shard:04d}.tar", files)
    data = root
    if where == "address":
        put(root, f"{place}/wds")
        data = f"{place}/wds"
    dataset = load_dataset(data)
    assert dataset.class_counts() == {"sad": 6, "행복": 4}
    assert dataset.samples[1].path == "train-0000.tar/0001.png"
    assert (dataset.samples[1].group, dataset.samples[1].split) == ("p1", "train")
    assert dataset.left_out == ()
    store, summary = embed_at(data, tmp_path / "cache")
    assert (summary.n_done, len(store.load().labelled())) == (10, 10)


def test_a_model_is_read_from_an_address(place: str):
    from ferkit import load_model
    from ferkit.core.weights import bundled_folder

    put(bundled_folder("ferkit"), f"{place}/models/mine")
    model = load_model(f"{place}/models/mine")
    assert model.labels == load_model("ferkit").labels
    assert model.name == "mine"


class Waiting:
    """Images that come once so many are asked for at the same time."""

    tagged = True

    def __init__(self, at_once: int) -> None:
        self.barrier = threading.Barrier(at_once)

    def stamp(self, path: str) -> Stamp:
        return Stamp(1, 0, path)

    def read(self, path: str) -> bytes:
        self.barrier.wait(60)
        return path.encode()

    def decode(self, content: bytes) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)


def test_requests_run_ahead_many_at_a_time():
    ahead = ReadAhead(Waiting(16))
    names = [str(i) for i in range(64)]
    for name in names:
        ahead.begin(name)
    assert [ahead.read(name).decode() for name in names] == names
    assert not ahead._begun  # of millions of images, nothing may stay
    ahead.close()


def test_no_password_is_written_or_said(tmp_path: Path, place: str):
    from ferkit.core.files import why_not_written
    from ferkit.embedder.store import full_name

    address = as_path("memory://user:secret@bucket/data")
    assert "secret" not in full_name(address)
    assert "secret" not in why_not_written(address, OSError(28, "No space left"))
    with pytest.raises(DataError) as error:
        load_dataset("memory://user:secret@bucket/data")
    assert "secret" not in str(error.value)
