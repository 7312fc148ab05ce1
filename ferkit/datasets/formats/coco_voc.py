"""Read COCO and Pascal VOC annotations."""

import re
import unicodedata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ferkit.core.errors import DataError
from ferkit.core.files import parse_json, read_regular
from ferkit.datasets.dataset import AIHUB_PERSON, Sample
from ferkit.datasets.formats.annotated import Annotated, ImageIndex, annotated, checked_box, files_below


def read_coco(file: Path, images: Path | None = None, person_pattern: str = AIHUB_PERSON) -> Annotated:
    """Read COCO's ``images``, ``annotations`` and ``categories``.

    Args:
        file: the JSON file.
        images: folder of the images, at any depth; that of ``file`` if None.
        person_pattern: regular expression whose first group finds the person in a file name.

    Returns:
        The faces, their category as label; what is plain text or a number in ``attributes`` is kept.

    Raises:
        DataError: not such a file, no folder, or nothing that can be used.
    """
    root = images or file.parent
    content = _read(file)
    index = ImageIndex(root)
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
            continue  # the image is listed already
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
        raise DataError(f"there is no image with the number {entry.get('image_id')!r}")
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


def read_voc(root: Path, person_pattern: str = AIHUB_PERSON) -> Annotated:
    """Read images and XML files, wherever they lie below ``root``, and join them by file name.

    An image is found by ``<filename>``, or else by the name of its XML file. The class of each ``<object>`` is its
    label. VOC counts pixels from 1 and includes the last; boxes here count from 0 and leave it out.

    Args:
        root: the folder.
        person_pattern: regular expression whose first group finds the person in a file name.

    Raises:
        DataError: no folder, no XML file, or nothing that can be used.
    """
    images = ImageIndex(root)
    by_stem: dict[str, list[str]] = {}
    for path in images.paths:
        by_stem.setdefault(path.rpartition("/")[2].rpartition(".")[0], []).append(path)
    files = files_below(root, ".xml")
    if not files:
        raise DataError(f"expected VOC's XML files below {root}, found none")
    faces: list[Sample] = []
    problems = images.left_out
    sizes_wh: dict[str, tuple[int, int]] = {}
    read: dict[str, str] = {}
    for file in files:
        try:
            tree = ElementTree.parse(root / file).getroot()
        except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
            problems.append((file, f"it cannot be read: {error}"))
            continue
        name = (tree.findtext("filename") or "").strip()
        try:
            path = _image(images, by_stem, name, file)
        except DataError as error:
            problems.append((name or file, f"{error}; recorded in {file}"))
            continue
        if path in read:
            problems.append((path, f"recorded again in {file}; {read[path]} counts"))
            continue
        read[path] = file
        if (size := _size(tree)) is not None:
            sizes_wh[path] = size
        objects = tree.findall("object")
        if not objects:
            problems.append((path, f"{file} marks nothing in it"))
        for element in objects:
            try:
                faces.append(_voc_face(path, element, person_pattern))
            except DataError as error:
                problems.append((path, str(error)))
    problems += [(path, "there is no record of this image") for path in images.paths if path not in read]
    return annotated(root, root, faces, problems, sizes_wh)


def _image(images: ImageIndex, by_stem: dict[str, list[str]], name: str, file: str) -> str:
    try:
        return images.find(name, near=file)
    except DataError:
        # Tools that rename or convert images often leave the old name in the XML.
        same = by_stem.get(file.rpartition("/")[2].rpartition(".")[0], [])
        if len(same) != 1:
            raise
        return same[0]


def _voc_face(path: str, element: ElementTree.Element, person_pattern: str) -> Sample:
    box = element.find("bndbox")
    if box is None:
        raise DataError("an object has no bndbox")
    try:
        left, top, right, bottom = (float(box.findtext(k, "")) for k in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        raise DataError("a bndbox holds something that is no number") from None
    label = unicodedata.normalize("NFC", element.findtext("name", "").strip()) or None
    found = re.search(person_pattern, path.rpartition("/")[2])
    attributes = {
        key: value
        for key in ("pose", "truncated", "difficult", "occluded")
        if (value := element.findtext(key, "").strip())
    }
    return Sample(
        path,
        label,
        None,
        found.group(1) if found else None,
        checked_box(left - 1, top - 1, right, bottom),
        attributes,
    )


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        size = int(tree.findtext("size/width", "")), int(tree.findtext("size/height", ""))
    except ValueError:
        return None
    return size if min(size) > 0 else None
