"""What all commands share: settings, spellings of 0.1, the environment, suggestions."""

import contextlib
import dataclasses
import http.server
import io
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ferkit.cli.main import main
from ferkit.cli.options import command, option
from ferkit.cli.settings import Chosen, Fields, Setting, convert, field_help
from ferkit.core.errors import ImageError
from ferkit.core.spellings import OPTIONS, new_words
from ferkit.datasets.load import FetchLimits, fetch_image
from tests.inference.tiny_model import LEVELS, flat, write_tiny_model


@dataclass(frozen=True)
class Inner:
    """Inner settings.

    Attributes:
        depth: how deep.
    """

    depth: int = 3


@dataclass(frozen=True)
class Outer:
    """Settings of everything.

    Attributes:
        align: turn
            upright.
        size_wh: in pixels.
        low, high: limits.
        kind: of what.
        inner: the rest.
    """

    align: bool = True
    size_wh: tuple[int, int] = (112, 96)
    low: float = 0.5
    high: float | None = None
    kind: Literal["a", "b"] = "a"
    pca: int | Literal["auto"] | None = "auto"
    hidden: tuple[int, ...] = (128, 64)
    inner: Inner = field(default_factory=Inner)


HERE = f"{__name__}:Outer"


@command("try", settings=(Fields(HERE, low=0.75), Setting("extra", int | None, None, "one more")))
@option("--flag/--no-flag", default=True, help="A flag.")
@option("--layer", help="A layer.")
def attempt(settings: Chosen, **options: object) -> None:
    """Try it."""
    click.echo(
        json.dumps(
            {**settings.of(Outer), **settings.of(Inner), "extra": settings["extra"], **options}, default=str
        )
    )


def tried(*arguments: str, env: dict[str, str] | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(attempt, list(arguments), env=env or {}, auto_envvar_prefix="FER_TRY")
    assert result.exit_code == code, result.output
    return result


def values(*arguments: str, env: dict[str, str] | None = None) -> dict[str, object]:
    found: dict[str, object] = json.loads(tried(*arguments, env=env).stdout)
    return found


def test_settings_are_the_fields_of_the_dataclass() -> None:
    assert field_help(Outer) == {
        "align": "turn upright.", "size_wh": "in pixels.", "low": "limits.", "high": "limits.", "kind": "of what.",
        "inner": "the rest.",
    }  # fmt: skip
    keys = [setting.key for setting in Fields(HERE).settings()]
    assert keys == ["align", "size_wh", "low", "high", "kind", "pca", "hidden", "inner.depth"]
    shown = tried("--help-all").stdout
    assert "size_wh=112x96" in shown
    assert "inner.depth=3" in shown
    assert "low=0.75" in shown
    assert "FER_TRY_LAYER" in shown
    assert "size_wh" not in tried("--help").stdout


def test_what_is_given_is_converted_and_the_rest_left_to_the_dataclass() -> None:
    assert values() == {"low": 0.75, "extra": None, "flag": True, "layer": None}
    given = ("align=no", "size_wh=24x32", "high=2", "pca=none", "hidden=8,4", "extra=4", "inner.depth=5")
    found = values(*(word for pair in given for word in ("--set", pair)))
    assert found["align"] is False
    assert found["size_wh"] == [24, 32]
    assert found["high"] == 2.0
    assert found["pca"] is None
    assert found["hidden"] == [8, 4]
    assert found["extra"] == 4


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("alig=no", "no setting is called 'alig', did you mean align?"),
        ("align=maybe", "expected true or false for align, found 'maybe'"),
        ("size_wh=1x2x3", "a size such as 96x112 for size_wh"),
        ("extra=0", "expected a whole number above 0 or none for extra"),
        ("kind=c", "expected a, b for kind"),
        ("align", "expected KEY=VALUE"),
        ("layer=x", "layer is an option of its own: --layer"),
    ],
)
def test_a_wrong_setting_is_one_sentence(pair: str, says: str) -> None:
    assert says in " ".join(tried("--set", pair, code=2).stderr.split())


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_values_come_back_from_their_text(whole: int, real: float, flag: bool) -> None:
    assert convert(str(whole), Setting("x", int, 0)) == whole
    assert convert(str(real), Setting("x", float, 0.0)) == real
    assert convert(str(flag), Setting("x", bool, False)) is flag
    assert convert(f"{whole},{whole}", Setting("x", tuple[int, ...], (0,))) == (whole, whole)


@given(st.text(alphabet="abcxyz0189,.-= ", max_size=12))
def test_any_text_is_converted_or_refused(text: str) -> None:
    for setting in Fields(HERE).settings():
        with contextlib.suppress(click.BadParameter):
            assert not isinstance(convert(text, setting), list)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("dataset", "split", "x", "-o", "y.csv", "--test", "nan"), "expected a number, found nan"),
        (("dataset", "split", "x", "-o", "y.csv", "--seed", "-1"), "-1 is not in the range"),
        (("dataset", "split", "x", "-o", ""), "expected a file on this machine, found ''"),
        (("dataset", "info", "x", "--plot", "s3://b/x.png"), "expected a file on this machine, found 's3"),
        (("fit", "--set", "seed=-3"), "expected a whole number of 0 or more for seed, found '-3'"),
        (("fit", "--set", "test_size=nan"), "expected a number for test_size, found 'nan'"),
    ],
)
def test_values_that_only_look_right_are_refused(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        result = CliRunner().invoke(main, [*words, "--lang", "en"] if words[0] == "fit" else [*words])
    assert result.exit_code == 2
    assert says in result.output
    assert not list(tmp_path.iterdir())


def test_environment_file_and_command_line_in_that_order(tmp_path: Path) -> None:
    (tmp_path / "fer.toml").write_text("low = 1\nextra = 2\nlayer = 'x'\n[try.inner]\ndepth = 7\n")
    config = ("--config", str(tmp_path / "fer.toml"))
    assert values(*config) == {"low": 1.0, "extra": 2, "flag": True, "layer": "x", "depth": 7}
    env = {"FER_TRY_LOW": "2", "FER_TRY_SET": "extra=3 high=4", "FER_TRY_LAYER": "y", "FER_TRY_FLAG": "0"}
    assert values(*config, env=env) == {
        "low": 2.0, "extra": 3, "high": 4.0, "flag": False, "layer": "y", "depth": 7
    }  # fmt: skip
    assert values(*config, "--set", "low=5", env={"FER_TRY_LOW": "2"})["low"] == 5.0


def test_old_spellings_are_understood_and_said(tmp_path: Path) -> None:
    result = tried("--tap", "stage1", "--no-align", "--size-wh=24")
    assert json.loads(result.stdout)["layer"] == "stage1"
    assert json.loads(result.stdout)["align"] is False
    for line in ("--tap is now --layer stage1", "--no-align is now --set align=false",
                 "--size-wh is now --set size_wh=24"):  # fmt: skip
        assert line in result.stderr
    assert tried("--tap", "x", "-q").stderr == ""
    result = tried(env={"FER_TRY_TAP": "stage2"})
    assert json.loads(result.stdout)["layer"] == "stage2"
    assert "FER_TRY_TAP is now FER_TRY_LAYER" in result.stderr
    (tmp_path / "fer.toml").write_text("tap = 'stage3'\n")
    result = tried("--config", str(tmp_path / "fer.toml"))
    assert json.loads(result.stdout)["layer"] == "stage3"
    assert "tap is now layer" in result.stderr


def test_old_spellings_are_understood_whatever_the_program_is_called() -> None:
    result = CliRunner().invoke(main, ["embed", "nothing", "--shard-size", "2"], prog_name="python -m ferkit")
    assert result.exit_code == 1
    assert "--shard-size is now --set rows_per_shard=2" in result.stderr


def test_the_table_of_old_spellings_leads_somewhere() -> None:
    context = click.Context(main, info_name="fer")
    for path, renamed in OPTIONS.items():
        if not path:
            continue
        found: click.Command | None = main
        parent = context
        for word in path.split():
            assert isinstance(found, click.Group)
            found = found.get_command(parent, word)
            assert found is not None
            parent = click.Context(found, info_name=word, parent=parent)
        for old in renamed:
            assert found.find(parent, old) is not None, f"{path}: {old}"  # type: ignore[union-attr]


def test_old_words_are_replaced_where_they_are_words() -> None:
    assert new_words("candidate", "ensemble:shipped+svm@hog") == "ensemble:ferkit+svm@hog"
    assert new_words("candidate", "model:models/shipped") == "model:models/shipped"
    assert new_words("backbone", "compact") == "small_resnet"
    assert new_words("backbone", "compact.keras") == "compact.keras"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("train", "'fit' (a head on embeddings) or 'finetune'"),
        ("finetun", "'finetune'"),
        ("wbcam", "'webcam'"),
    ],
)
def test_a_mistyped_command_gets_a_suggestion(word: str, says: str) -> None:
    result = CliRunner().invoke(main, [word])
    assert result.exit_code == 2
    assert f"No such command '{word}'. Did you mean {says}" in result.stderr


def test_unknown_variables_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = {"FER_EMBED_BATCHSIZE": "3", "FER_EMBD_JSON": "1", "FER_EMBED_BATCH_SIZE": "3", "FER_EMBED_TAP": "x",
           "FER_DATASET_SPLIT_VAL": "0.2", "FER_OFFLINE": "1"}  # fmt: skip
    result = CliRunner().invoke(main, ["export", "nothing"], env=env)
    lines = [line for line in result.stderr.splitlines() if "is unknown" in line]
    assert sorted(line.split()[3] for line in lines) == ["FER_EMBD_JSON", "FER_EMBED_BATCHSIZE"]
    assert any("did you mean FER_EMBED_BATCH_SIZE" in line for line in lines)


# -- images from elsewhere -------------------------------------------------------------------------------------------


def png(level: float) -> bytes:
    file = io.BytesIO()
    Image.fromarray(flat(level, np.random.default_rng(0))).save(file, "PNG")
    return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        name, body = self.path.strip("/"), png(LEVELS["happy"])
        if name == "around":
            self.send_response(302)
            self.send_header("Location", "/around")
            self.end_headers()
        elif name == "missing":
            self.send_error(404)
        else:
            if name == "moved":
                self.send_response(302)
                self.send_header("Location", "/face.png")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) * (2 if name == "short" else 1)))
            self.end_headers()
            for byte in body if name == "slow" else ():
                self.wfile.write(bytes([byte]))
                threading.Event().wait(0.05)
            if name != "slow":
                self.wfile.write(body)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_addresses_are_fetched_within_limits(address: str) -> None:
    private = FetchLimits(private_hosts=True)
    assert fetch_image(f"{address}/face.png", private) == png(LEVELS["happy"])
    assert fetch_image(f"{address}/moved", private) == png(LEVELS["happy"])
    for name, changes, says in (
        ("face.png", {"private_hosts": False}, "is in a private network"),
        ("face.png", {"max_bytes": 100}, "has more than"),
        ("around", {}, "more than 5 redirects"),
        ("missing", {}, "the host answers 404"),
        ("short", {}, "bytes early"),
        ("slow", {"max_s": 0.5}, "more than 0.5 s"),
    ):
        with pytest.raises(ImageError, match=says):
            fetch_image(f"{address}/{name}", dataclasses.replace(private, **changes))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="without user name"):
        fetch_image(address.replace("//", "//me:secret@"), private)


def test_predict_reads_addresses_patterns_and_standard_input(address: str, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "models" / "tiny")
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(png(LEVELS["sad"]))
    (tmp_path / "film.mp4").write_bytes(b"film")

    def predict(*words: object, code: int = 0, **extra: object) -> Result:
        arguments = ["predict", "--models-dir", tmp_path / "models", "--crops", "--json", *words]
        result = CliRunner().invoke(main, list(map(str, arguments)), **extra)  # type: ignore[arg-type]
        assert result.exit_code == code, result.output
        return result

    words = (f"{address}/face.png", tmp_path / "*.png", "-", f"{address}/missing", tmp_path / "film.mp4")
    result = predict(*words, "--set", "private_hosts=true", input=png(LEVELS["neutral"]))
    found = json.loads(result.stdout)["pictures"]
    shown = [str(address) + "/face.png", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "standard input"]
    assert [entry["path"] for entry in found[:4]] == shown
    assert [entry["faces"][0]["label"] for entry in found[:4]] == ["happy", "sad", "sad", "neutral"]
    assert "404" in found[4]["error"]
    assert "'fer video" in found[5]["error"]
    assert "'fer video" in predict(tmp_path / "film.mp4", code=1).stderr
    assert "is in a private network" in predict(f"{address}/face.png", code=1).stderr


# -- the head just fitted --------------------------------------------------------------------------------------------


def test_a_second_fit_is_unchanged_and_another_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for k in range(36):
        name, level = list(LEVELS.items())[k % 3]
        path = tmp_path / "data" / name / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(flat(level, rng)).save(path)

    def fer(*words: object, code: int = 0) -> Result:
        result = CliRunner().invoke(main, list(map(str, words)))
        assert result.exit_code == code, result.output
        return result

    fer("embed", "data", "-b", "raw", "-d", "none")
    done = fer("fit", "--head", "logistic", "--class-weights", "--log-dir", "logs")
    report = tmp_path / "models" / "logistic" / "report"
    assert f"report: {report.relative_to(tmp_path) / 'report.html'}" in done.stdout
    plots = {
        f"{name}.png" for name in ("classes", "confusion", "predictions", "probabilities", "reliability")
    }
    written = {"metrics.json", "report.html", "report.json", "report.md", "report.txt", *plots}
    assert {path.name for path in report.iterdir()} == written
    values = json.loads((report / "report.json").read_text("utf-8"))["contenders"][0]
    assert values["seen_rows"] == 0  # measured on what it never saw
    assert "data:image/webp" in (report / "report.html").read_text("utf-8")
    (log,) = (tmp_path / "logs").iterdir()
    assert all(line in log.read_text("utf-8") for line in done.stdout.splitlines())
    record = (tmp_path / "models" / "logistic" / "model.json").read_bytes()
    assert "unchanged" in fer("fit", "--head", "logistic", "--class-weight", "balanced").stdout
    assert (
        json.loads(fer("fit", "--head", "logistic", "--class-weights", "--json").stdout)["unchanged"] is True
    )
    assert (tmp_path / "models" / "logistic" / "model.json").read_bytes() == record
    refused = fer("fit", "--head", "logistic", code=1).stderr
    assert "--overwrite" in refused
    assert "--name" in refused
    fer("fit", "--head", "logistic", "--overwrite", "-C", "0.1", "--no-report")
    assert not report.exists()
    assert "unchanged" in fer("fit", "--head", "logistic", "--set", "C=0.1").stdout
    fer("fit", "--head", "dummy", "--name", "floor", "--no-report")
    again = ("fit", "data", "--head", "dummy", "--name", "floor")
    assert "changed" not in fer(*again).stderr
    (one, other, third, *_) = sorted((tmp_path / "data" / "happy").iterdir())
    one.rename(tmp_path / "data" / "sad" / one.name)  # gone, and new
    other.unlink()
    third.write_bytes(png(LEVELS["sad"]))
    assert "4 images changed since they were embedded; run 'fer embed data' first" in fer(*again).stderr
    first, *others = [*LEVELS][::-1]
    words = ["--labels", ",".join([first, *others[:-1]]), "--class-weights", f"{first}=3,1=2", "--no-report"]
    said = fer("fit", "--head", "logistic", "--name", "ordered", *words).stderr
    assert f"left out, since --labels does not name their class: {others[-1]} 12" in said
    made = json.loads((tmp_path / "models" / "ordered" / "model.json").read_text("utf-8"))
    assert made["labels"] == [first, *others[:-1]]
    assert made["parts"]["head"]["settings"]["balanced"] == {first: 3.0, "1": 2.0}
    assert "no class '5' to weigh" in fer("fit", "--class-weights", "5=2", "--name", "x", code=1).stderr
    shutil.rmtree(tmp_path / "models" / "ordered")
    (tmp_path / "models" / "broken").mkdir()
    (tmp_path / "models" / "broken" / "model.json").write_text("{}")
    image = next((tmp_path / "data").rglob("*.png"))
    said = fer("predict", image, "--crops").stderr
    assert "model: logistic, the newest in models" in said
