"""COCO: one JSON file with pictures, boxes and categories."""

import re
import unicodedata
from pathlib import Path
from typing import Any

from ferkit.core.errors import DataError
from ferkit.core.files import parse_json, read_regular
from ferkit.datasets.annotations.annotated import Annotated, annotated, checked_box
from ferkit.datasets.annotations.join import PictureIndex
from ferkit.datasets.dataset import Sample
from ferkit.datasets.folder import AIHUB_PERSON


def read_coco(file: Path, pictures: Path | None = None, person_pattern: str = AIHUB_PERSON) -> Annotated:
    """Read COCO's ``images``, ``annotations`` and ``categories``.

    Args:
        file: the JSON file.
        pictures: folder of the pictures, at any depth; that of ``file`` if None.
        person_pattern: regular expression whose first group finds the person in a file name.

    Returns:
        The faces, their category as label; what is plain text or a number in ``attributes`` is kept.

    Raises:
        DataError: not such a file, no folder, or nothing that can be used.
    """
    root = pictures or file.parent
    content = _read(file)
    index = PictureIndex(root)
    problems = index.left_out
    categories = {
        entry.get("id"): unicodedata.normalize("NFC", str(entry.get("name", "")).strip())
        for entry in content["categories"]
    }
    paths: dict[Any, str] = {}
    sizes_wh: dict[str, tuple[int, int]] = {}
    for entry in content["images"]:
        name = str(entry.get("file_name", ""))
        try:
            path = index.find(name)
        except DataError as error:
            problems.append((name or file.name, f"{error}; recorded in {file.name}"))
            continue
        paths[entry.get("id")] = path
        width, height = entry.get("width"), entry.get("height")
        if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
            sizes_wh[path] = width, height
    missing = {entry.get("id") for entry in content["images"]} - paths.keys()
    faces = []
    for entry in content["annotations"]:
        if entry.get("image_id") in missing:
            continue  # the picture is listed already
        shown = f"annotation {entry.get('id')} of {file.name}"
        try:
            faces.append(_face(entry, paths, categories, person_pattern))
        except DataError as error:
            problems.append((paths.get(entry.get("image_id"), shown), f"{error}; {shown}"))
    marked = {face.path for face in faces}
    unmarked = (path for path in index.paths if path not in marked)
    problems += [(path, f"{file.name} marks nothing in it that can be used") for path in unmarked]
    return annotated(file, root, faces, problems, sizes_wh)


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = parse_json(read_regular(file))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{file} is no JSON file: {error}") from None
    parts = {}
    for key in ("images", "annotations", "categories"):
        part = content.get(key) if isinstance(content, dict) else None
        if not isinstance(part, list):
            raise DataError(
                f"expected COCO's lists images, annotations and categories in {file}, found no {key}"
            )
        parts[key] = [entry for entry in part if isinstance(entry, dict)]
    return parts


def _face(
    entry: dict[str, Any], paths: dict[Any, str], categories: dict[Any, str], person_pattern: str
) -> Sample:
    path = paths.get(entry.get("image_id"))
    if path is None:
        raise DataError(f"there is no picture with the number {entry.get('image_id')!r}")
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(v, (int, float)) for v in bbox):
        raise DataError(f"expected a bbox of four numbers, found {bbox!r}")
    left, top, width, height = map(float, bbox)
    category = entry.get("category_id")
    if category not in categories:
        raise DataError(f"there is no category with the number {category!r}")
    attributes = entry.get("attributes")
    known = attributes.items() if isinstance(attributes, dict) else ()
    found = re.search(person_pattern, path.rpartition("/")[2])
    return Sample(
        path,
        categories[category] or None,
        None,
        found.group(1) if found else None,
        checked_box(left, top, left + width, top + height),
        {str(key): str(value) for key, value in known if isinstance(value, (str, int, float))},
    )
