"""The shape of the package: who imports whom, and what is imported when."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import ferkit

PACKAGE = Path(ferkit.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

MAY_IMPORT = {
    "core": set(),
    "datasets": {"core"},
    "faces": {"core", "datasets"},
    "embedder": {"core", "datasets", "faces"},
    "classifiers": {"core", "datasets", "faces", "embedder"},
    "inference": {"core", "datasets", "faces", "embedder", "classifiers"},
    "evaluation": {"core", "datasets", "faces", "embedder", "classifiers"},
    "audit": {"core", "datasets", "faces", "embedder", "classifiers", "evaluation"},
    "teaching": {"core", "datasets", "faces", "embedder", "classifiers", "evaluation"},
    "serving": {
        "core",
        "datasets",
        "faces",
        "embedder",
        "classifiers",
        "inference",
        "evaluation",
        "teaching",
    },
}
"""core <- datasets <- faces <- embedder <- classifiers <- {inference, evaluation} <- teaching <- {serving, audit}
<- cli.

The two in braces do not know each other; only api and cli know all."""

HEAVY = {
    *("tensorflow", "keras", "tf2onnx", "deepface", "mediapipe", "openvino", "dask", "torch", "jax"),
    *("matplotlib", "sklearn", "skimage", "scipy", "pandas", "onnx", "onnxruntime", "skops", "joblib"),
}

FINETUNE = PACKAGE / "classifiers" / "finetune"


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Every module that a file imports, and whether that happens as soon as the file itself is imported."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name_of(path)}:{child.lineno}: imports are absolute"
                assert child.module is not None
                yield child.module, at_once
                # "from ferkit import core" imports the part as much as "import ferkit.core" does.
                yield from ((f"{child.module}.{alias.name}", at_once) for alias in child.names)
            else:
                later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                never = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                yield from walk(child, at_once and not later and not never)

    return tuple(walk(ast.parse(path.read_text(encoding="utf-8")), True))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path):
    part = path.relative_to(PACKAGE).parts[0]
    if part in ("__init__.py", "__main__.py", "api.py", "sklearn.py", "cli"):
        return  # the public names, and the top of the stack
    parts = {name.split(".")[1] for name, _ in imports(path) if name.startswith("ferkit.")}
    assert parts - {part} <= MAY_IMPORT[part]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_click_lives_in_the_command_line_only(path: Path):
    if path.relative_to(PACKAGE).parts[0] != "cli":
        assert not [name for name, _ in imports(path) if name.split(".")[0] == "click"]


def at_once(path: Path, seen: set[Path]) -> set[str]:
    """Heavy packages that come along with a module, through whatever it imports at its top."""
    if path in seen:
        return set()
    seen.add(path)
    found = set()
    for name, now in imports(path):
        if now and name.split(".")[0] in HEAVY:
            found.add(name.split(".")[0])
        elif now and name.split(".")[0] == "ferkit":
            inner = PACKAGE.joinpath(*name.split(".")[1:])
            for file in (inner.with_suffix(".py"), inner / "__init__.py"):
                if file.is_file():
                    found |= at_once(file, seen)
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_packages_are_imported_where_they_are_needed(path: Path):
    # Modules that define layers and estimators need their bases; functions import these modules in turn.
    needed = {"keras", "sklearn"} if FINETUNE in path.parents or path.name == "sklearn.py" else set()
    assert at_once(path, set()) <= needed


def test_every_part_is_known():
    parts = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert parts <= MAY_IMPORT.keys() | {"cli"}


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count too: who needs whom is the same wherever the line stands."""
    names = {}
    for path in MODULES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    waiting = {
        name: {n for n, _ in imports(path) if n in names and n != name} for name, path in names.items()
    }
    # "from ferkit.cli import main" imports the package too, which is no circle of its own making.
    while free := [name for name, needed in waiting.items() if not needed & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"in a circle, or in need of one: {sorted(waiting)}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_named_for_what_they_hold(path: Path):
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'Detector'"):
        ferkit.Detector


@pytest.mark.parametrize(
    "file",
    [*(PACKAGE.parent / "benchmarks").rglob("*.py"), *(PACKAGE.parent / "examples").rglob("*.py")],
    ids=lambda path: path.stem,
)
def test_benchmarks_and_examples_import_what_there_is(file: Path) -> None:
    """Read, not run: many need packages or data that are not here."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ferkit."):
            module = PACKAGE.parent / f"{node.module.replace('.', '/')}.py"
            folder = module.with_suffix("")
            tree = ast.parse(module.read_text(encoding="utf-8")) if module.is_file() else ast.Module([], [])
            own = {name.id for name in ast.walk(tree) if isinstance(name, ast.Name)}
            own |= {one.name for one in tree.body if isinstance(one, (ast.FunctionDef, ast.ClassDef))}
            own |= {path.stem for path in folder.glob("*.py")}
            assert {alias.name for alias in node.names} <= own, f"{file}: {node.module}"
