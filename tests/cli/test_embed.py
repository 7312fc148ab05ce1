import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from small_runs import write_image, write_images

from ferkit.cli import main
from ferkit.embedder.store import EmbeddingStore


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, on a machine that has no weights and may not fetch any."""
    for name in list(os.environ):
        if name.startswith("FER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FER_OFFLINE", "1")
    monkeypatch.setenv("FER_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def fer_embed(*arguments: object) -> Result:
    """``fer embed`` with the weightless backbone, which needs nothing."""
    result = CliRunner().invoke(main, ["embed", *map(str, arguments), "-b", "raw", "-d", "none"])
    assert "Traceback" not in result.output
    return result


def the_store() -> EmbeddingStore:
    (folder,) = Path("cache").iterdir()
    return EmbeddingStore.open(folder)


def refusal(result: Result) -> str:
    """What the one line says that ends a command with something a user can mend."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert errors == result.stderr.splitlines()[-1:]
    return errors[0].removeprefix("Error: ")


def usage_error(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


def test_a_folder_of_faces_becomes_a_store(here: Path):
    write_images(here / "data", 5)
    (here / "data" / "sad" / "text.jpg").write_text("dear diary")
    result = fer_embed("data")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("6 images in data, 2 classes: happy 2, sad 4\n")
    assert "failed: sad/text.jpg: the content is not an image" in result.stderr
    assert result.stdout.startswith("5 embedded (")
    assert f"/s), 0 were there, 1 failed, 0 no longer in the data: {the_store().folder}\n" in result.stdout
    assert len(the_store().load()) == 5
    assert "0 embedded (" in fer_embed("data").stdout


def test_json_is_all_that_is_printed(here: Path):
    write_images(here / "data", 3)
    name = os.fsdecode(b"\xff.jpg")
    (here / "data" / "sad" / name).write_text("dear diary")
    result = fer_embed("data", "--json", "-q")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    summary = json.loads(result.stdout)
    assert summary["n_done"] == 3
    assert len(summary["failures"]) == 1
    assert Path(summary["store"]) == the_store().folder


def test_names_that_are_not_utf8_can_be_printed(here: Path):
    folder = here / os.fsdecode(b"data\xff")
    write_images(folder, 3)
    (folder / "sad" / os.fsdecode(b"\xfe.jpg")).write_text("dear diary")
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for extra in ([], ["--json"]):
        command = [sys.executable, "-m", "ferkit", "embed", folder, "-b", "raw", "-d", "none", *extra]
        done = subprocess.run(command, capture_output=True, env=strict, check=False)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr


def empty_folder(here: Path) -> None:
    (here / "data").mkdir()


def no_images(here: Path) -> None:
    empty_folder(here)
    (here / "data" / "notes.txt").write_text("nothing")


def mixed_layouts(here: Path) -> None:
    write_images(here / "data" / "train", 2)
    write_images(here / "data", 2)


def file_for_folder(here: Path) -> None:
    (here / "data").write_text("no folder")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda here: None, "found nothing at data; check the path"),
        (empty_folder, "expected images in data, found none"),
        (no_images, "expected images in data, found none"),
        (mixed_layouts, "holds split folders (train) next to other folders"),
        (file_for_folder, "expected a folder, a .zip or .tar file, a table"),
    ],
)
def test_data_that_cannot_be_used_is_one_sentence(here: Path, prepare, message: str):
    prepare(here)
    assert message in refusal(fer_embed("data"))
    assert not (here / "cache").exists()


def test_every_kind_of_bad_image_is_a_failure_and_stops_nothing(here: Path):
    write_images(here / "data", 2)
    bad = here / "data" / "sad"
    (bad / "zero.jpg").write_bytes(b"")
    (bad / "text.jpg").write_text("dear diary")
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(noise).save(bad / name)
        (bad / name).write_bytes((bad / name).read_bytes()[:3000])
    header = bytearray((bad / "0000.bmp").read_bytes())
    header[18:26] = (30_000).to_bytes(4, "little") * 2
    (bad / "giant.bmp").write_bytes(header)
    (bad / "lost.jpg").symlink_to("nowhere")
    (bad / "circle").symlink_to(here / "data")
    result = fer_embed("data")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 embedded (")
    reasons = {row.path.removeprefix("sad/"): row.error or "" for row in the_store().failures()}
    assert sorted(reasons) == ["cut.jpg", "cut.png", "giant.bmp", "lost.jpg", "text.jpg", "zero.jpg"]
    assert "million" in reasons["giant.bmp"]
    for name in reasons:
        assert f"  failed: sad/{name}: " in result.stderr


def test_many_failures_are_not_all_listed(here: Path):
    write_images(here / "data", 2)
    for i in range(14):
        (here / "data" / "sad" / f"x{i:02d}.jpg").write_bytes(b"")
    result = fer_embed("data")
    assert result.stderr.count("  failed: ") == 10
    assert "and 4 more" in result.stderr


@pytest.mark.parametrize("content", ["label,age\nhappy,3\n", "path,label\n", ""])
def test_a_table_that_is_none_is_one_sentence(here: Path, content: str):
    (here / "faces.csv").write_text(content)
    assert "expected" in refusal(fer_embed("faces.csv"))


def test_arrays_that_are_none_are_one_sentence(here: Path):
    (here / "faces.npz").write_bytes(b"PK\3\4 broken")
    assert "expected an .npz file" in refusal(fer_embed("faces.npz"))


def test_without_permission_is_one_sentence(unprivileged: Path, here: Path):
    write_images(unprivileged / "data", 2)
    cache = unprivileged / "cache"
    cache.mkdir(mode=0o555)
    assert "cannot be written (Permission denied)" in refusal(
        fer_embed(unprivileged / "data", "--cache-dir", cache)
    )
    (unprivileged / "data" / "sad").chmod(0)
    try:
        assert "Permission denied" in refusal(fer_embed(unprivileged / "data", "--cache-dir", cache))
    finally:
        (unprivileged / "data" / "sad").chmod(0o755)


def test_damage_by_hand_is_one_sentence_and_mended_by_repair(here: Path):
    write_images(here / "data", 5)
    fer_embed("data", "--shard-size", 2)
    shard = the_store().shards()[1]
    shard.npy.write_bytes(shard.npy.read_bytes()[:-1])
    assert "--repair" in refusal(fer_embed("data"))
    result = fer_embed("data", "--repair")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 embedded (")
    assert len(the_store().load()) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": 9}, "update ferkit"), ({"fingerprint": "0"}, "was altered"), ({"dim": 3}, "was altered")],
)
def test_a_manifest_of_others_is_one_sentence(here: Path, change: dict, message: str):
    write_images(here / "data", 2)
    fer_embed("data")
    path = the_store().folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert message in refusal(fer_embed("data"))


def test_another_data_set_of_the_same_name_is_one_sentence(here: Path):
    write_images(here / "a" / "data", 2)
    write_images(here / "b" / "data", 2)
    fer_embed("a/data")
    assert "--name" in refusal(fer_embed("b/data"))
    assert fer_embed("b/data", "--name", "other").exit_code == 0
    assert "--name" in refusal(fer_embed("b/data", "--name", "a/b"))


def test_a_network_that_gives_nan_is_told_image_by_image(here: Path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    inputs = [helper.make_tensor_value_info("x", 1, ["n", 8, 8, 3])]
    outputs = [helper.make_tensor_value_info("y", 1, ["n", 192])]
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("Log", ["flat"], ["y"])]
    graph = helper.make_graph(nodes, "log", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "log.onnx")
    write_image(here / "data" / "x" / "noise.bmp", 0)
    Image.new("RGB", (8, 8)).save(here / "data" / "x" / "black.png")
    result = CliRunner().invoke(main, ["embed", "data", "-b", "onnx:log.onnx", "-d", "none", "--offset", "0"])
    assert result.exit_code == 0, result.output
    assert "failed: x/black.png: too large for float32" in result.stderr
    assert the_store().load().paths.tolist() == ["x/noise.bmp"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-b", "resnet"], "'resnet'"),
        (["-b", "onnx:missing.onnx"], "found none"),
        (["-b", "onnx:text.onnx"], "expected an ONNX network"),
        (["-d", "yunet"], "is needed, but fetching is switched off"),
        (["-d", "yunet", "--detector-weights", "missing.onnx"], "found no such file"),
        (["-d", "yunet", "--detector-weights", "text.onnx"], "is not a YuNet network"),
        (["--person-pattern", "("], "regular expression"),
    ],
)
def test_options_that_cannot_work_are_one_sentence(here: Path, arguments: list[str], message: str):
    write_images(here / "data", 2)
    (here / "text.onnx").write_text("no network")
    result = CliRunner().invoke(
        main, ["embed", "data", *(arguments if "-b" in arguments else ["-b", "raw", *arguments])]
    )
    assert message in refusal(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'DATA'"),
        (["data", "--backbon"], "No such option"),
        (["data", "--batch-size", "0"], "batch_size"),
        (["data", "--set", "pool=7x"], "a size such as 96x112"),
        (["data", "--set", "dtype=int8"], "float16"),
        (["data", "--set", "dtyp=int8"], "did you mean dtype?"),
        (["data", "--set", "layer=stage1"], "an option of its own: --layer"),
        (["data", "--config", "missing.toml"], "missing.toml cannot be read: No such file"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], message: str):
    result = CliRunner().invoke(main, ["embed", *arguments])
    assert result.exit_code == 2
    assert message in usage_error(result)


def batch_size() -> int:
    return the_store().batch_size


def test_options_come_from_the_environment(here: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(here / "data", 2)
    monkeypatch.setenv("FER_EMBED_BATCH_SIZE", "5")
    fer_embed("data")
    assert batch_size() == 5
    monkeypatch.setenv("FER_EMBED_BATCH_SIZE", "five")
    assert "five" in usage_error(fer_embed("data"))


def test_options_come_from_a_file_of_the_environment_unless_they_are_in_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    write_images(here / "data", 2)
    (here / ".env").write_text("FER_EMBED_BATCH_SIZE=6\nFER_EMBED_NAME=from-file\n")
    monkeypatch.setenv("FER_EMBED_NAME", "from-environment")
    # load_dotenv writes into the environment itself: undone with these.
    monkeypatch.setenv("FER_EMBED_BATCH_SIZE", "")
    monkeypatch.delenv("FER_EMBED_BATCH_SIZE")
    fer_embed("data")
    assert batch_size() == 6
    assert the_store().folder.name.startswith("from-environment--raw--")


@pytest.mark.parametrize(
    "text", ["batch-size = 7\njson = true\n", "[embed]\nbatch_size = 7\njson = true\n[fit]\nhead = 'svm'\n"]
)
def test_options_come_from_a_file(here: Path, text: str):
    write_images(here / "data", 2)
    (here / "fer.toml").write_text(text)
    result = fer_embed("data", "--config", "fer.toml")
    assert result.exit_code == 0, result.output
    assert batch_size() == 7
    assert json.loads(result.stdout)["n_done"] == 2


def test_the_command_line_is_stronger_than_a_file(here: Path):
    write_images(here / "data", 2)
    (here / "fer.toml").write_text("batch-size = 7\n")
    fer_embed("data", "--config", "fer.toml", "--set", "batch_size=8")
    assert batch_size() == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 7\n", "fer embed has no option batchsize"),
        ("[embed]\nhead = 'svm'\nfoo = 1\n", "fer embed has no option foo, head"),
        ("batch-size = \n", "is no TOML file"),
        ("batch-size = 'many'\n", "many"),
    ],
)
def test_a_file_of_options_that_cannot_be_used_ends_with_2(here: Path, text: str, message: str):
    (here / "fer.toml").write_text(text)
    assert message in usage_error(fer_embed("data", "--config", "fer.toml"))


def test_messages_and_errors_go_to_a_file_a_day(here: Path):
    write_images(here / "data", 2)
    fer_embed("data", "--log-dir", "logs")
    refusal(fer_embed("missing", "--log-dir", "logs"))
    (log,) = (here / "logs").iterdir()
    assert log.name == f"fer-{date.today():%Y-%m-%d}.log"
    lines = log.read_text(encoding="utf-8").splitlines()
    assert any(line.endswith("2 images in data, 2 classes: happy 1, sad 1") for line in lines)
    assert "ERROR ferkit: expected a folder, " in lines[-1]
    assert "or an .npz file, found nothing at missing" in lines[-1]
    fer_embed("data")
    assert len(log.read_text(encoding="utf-8").splitlines()) == len(lines)
