"""Read COCO and Pascal VOC annotations."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ferkit.core.errors import DataError
from ferkit.core.files import parse_json, read_regular
from ferkit.datasets.dataset import AIHUB_PERSON, Sample, composed
from ferkit.datasets.formats.annotated import Annotated, Collected, checked_box, files_below, person_in


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
    content = _read(file)
    found = Collected(images or file.parent)
    categories = {
        entry.get("id"): composed(str(entry.get("name", "")).strip()) for entry in content["categories"]
    }
    paths: dict[Any, str] = {}
    for entry in content["images"]:
        name = str(entry.get("file_name", ""))
        with found.listing(name or file.name, f"; recorded in {file.name}"):
            path = paths[entry.get("id")] = found.images.find(name)
            width, height = entry.get("width"), entry.get("height")
            if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
                found.sizes_wh[path] = width, height
    missing = {entry.get("id") for entry in content["images"]} - paths.keys()
    for entry in content["annotations"]:
        if entry.get("image_id") in missing:
            continue  # the image is listed already
        shown = f"annotation {entry.get('id')} of {file.name}"
        with found.listing(paths.get(entry.get("image_id"), shown), f"; {shown}"):
            found.faces.append(_face(entry, paths, categories, person_pattern))
    marked = {face.path for face in found.faces}
    found.list_unused(f"{file.name} marks nothing in it that can be used", marked)
    return found.annotated(file)


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
    return Sample(
        path,
        categories[category] or None,
        None,
        person_in(path, person_pattern),
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
    found = Collected(root)
    files = files_below(root, ".xml")
    if not files:
        raise DataError(f"expected VOC's XML files below {root}, found none")
    for file in files:
        try:
            tree = ElementTree.parse(root / file).getroot()
        except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
            found.problems.append((file, f"it cannot be read: {error}"))
            continue
        path = found.record((tree.findtext("filename") or "").strip(), file, by_stem=True)
        if path is None:
            continue
        if (size := _size(tree)) is not None:
            found.sizes_wh[path] = size
        objects = tree.findall("object")
        if not objects:
            found.problems.append((path, f"{file} marks nothing in it"))
        for element in objects:
            with found.listing(path):
                found.faces.append(_voc_face(path, element, person_pattern))
    found.list_unused("there is no record of this image", found.recorded)
    return found.annotated()


def _voc_face(path: str, element: ElementTree.Element, person_pattern: str) -> Sample:
    box = element.find("bndbox")
    if box is None:
        raise DataError("an object has no bndbox")
    try:
        left, top, right, bottom = (float(box.findtext(k, "")) for k in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        raise DataError("a bndbox holds something that is no number") from None
    label = composed(element.findtext("name", "").strip()) or None
    said = {key: element.findtext(key, "").strip() for key in ("pose", "truncated", "difficult", "occluded")}
    attributes = {key: value for key, value in said.items() if value}
    face = checked_box(left - 1, top - 1, right, bottom)
    return Sample(path, label, None, person_in(path, person_pattern), face, attributes)


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        size = int(tree.findtext("size/width", "")), int(tree.findtext("size/height", ""))
    except ValueError:
        return None
    return size if min(size) > 0 else None
