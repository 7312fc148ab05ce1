import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ferkit.core.files import canonical_json, differing_keys, file_sha256, fingerprint


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int]
    tap: str | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner
    scale: float = 1.0


def test_equal_settings_have_one_digest_however_they_are_held():
    settings = Outer(Inner((112, 96)))
    plain = {"scale": 1.0, "inner": {"tap": None, "size": [112, 96]}}
    assert fingerprint(settings) == fingerprint(plain)
    assert canonical_json(settings) == '{"inner":{"size":[112,96],"tap":null},"scale":1.0}'
    assert fingerprint(settings) != fingerprint(Outer(Inner((96, 112))))


def test_names_that_are_not_utf8_have_digests_of_their_own():
    names = [os.fsdecode(b"\xff.onnx"), os.fsdecode(b"\xfe.onnx"), "한글.onnx"]
    assert len({fingerprint({"backbone": name}) for name in names}) == 3


def test_differences_are_named_with_their_place():
    a, b = Outer(Inner((112, 112))), Outer(Inner((112, 112), "stage4"), 0.5)
    assert differing_keys(a, b) == ["inner.tap", "scale"]
    assert differing_keys(a, a) == []
    assert differing_keys({"inner": None}, a) == ["inner", "scale"]


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path):
    content = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()
