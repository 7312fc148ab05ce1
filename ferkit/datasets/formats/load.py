"""Images with annotations of any kind: COCO, Pascal VOC, folders and tables, or what is found by looking."""

import codecs
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ferkit.core.errors import DataError
from ferkit.core.files import read_json
from ferkit.datasets.dataset import AIHUB_PERSON, FileSource, Sample, composed, person_in, read_folder
from ferkit.datasets.formats.aihub import ANNOTATORS, read_aihub
from ferkit.datasets.formats.annotated import (
    Annotated,
    Collected,
    annotated,
    checked_box,
    class_of,
    files_below,
)
from ferkit.datasets.load import load_dataset
from ferkit.datasets.tables import TABLE_SUFFIXES, parse_table, table_columns

KINDS = ("auto", "aihub", "voc", "coco", "csv", "none")


def read_annotated(
    path: Path,
    kind: str = "auto",
    images: Path | None = None,
    person_pattern: str = AIHUB_PERSON,
    columns: Mapping[str, str] | None = None,
) -> Annotated:
    """Read images with all that is known of the faces in them.

    Args:
        path: a folder, a table, or COCO's JSON file.
        kind: one of :data:`KINDS`; ``none`` takes no boxes but those of a manifest; ``auto`` takes a ``.json`` file for
            COCO's, a table with the columns of a box for boxes, a folder with XML files for VOC's, and one with JSON
            files that name AI Hub's annotators for AI Hub's.
        images: for COCO, the folder of the images.
        person_pattern: finds the person in a file name.
        columns: for tables, name of the column by meaning.

    Raises:
        DataError: nothing there, or nothing that is understood.
    """
    if kind == "auto":
        kind = _kind_of(path, columns)
    if kind == "coco":
        return read_coco(path, images, person_pattern)
    if kind == "aihub":
        return read_aihub(path)
    if kind == "voc":
        return read_voc(path, person_pattern)
    if kind == "csv":
        return read_boxes(path, columns)
    if kind == "none":
        dataset = load_dataset(path, person_pattern, columns)
        return Annotated(dataset, dataset.left_out)
    raise DataError(f"expected a kind of annotations out of {', '.join(KINDS)}, found {kind!r}")


def read_boxes(table: Path, columns: Mapping[str, str] | None = None) -> Annotated:
    """Read a table with a path, a box and perhaps label, split, group and more in each row, several rows an image.

    A box is four columns: ``left, top, right, bottom`` (also ``xmin, ymin, xmax, ymax``; ``x0, y0, x1, y1``; ``minX,
    minY, maxX, maxY``), or a corner and a size (``x, y, width, height``). Next to corners, ``width`` and ``height`` are
    the image's. Paths are relative to the table, or absolute. Rows without a box are images whose face has yet to be
    found.

    Raises:
        DataError: not a readable table, or the columns are not there.
    """
    rows = parse_table(table, columns)
    if rows.columns.box is None:
        found = ", ".join(name for name, _ in rows.columns.attributes)
        raise DataError(
            f"expected four columns of a box in {table} (left, top, right, bottom, or x, y, width, height), "
            f"found {found or 'none'}"
        )
    faces, sizes_wh = [], {}
    for sample in rows.samples:
        try:
            box = None if sample.box is None else checked_box(*sample.box)
        except DataError as error:
            rows.left_out.append((sample.path, str(error)))
            continue
        rest = dict(sample.attributes)
        size = [rest.pop(name, "") for name in ("width", "height")]
        if all(cell.isdecimal() and int(cell) for cell in size):
            sizes_wh[sample.path] = int(size[0]), int(size[1])
        faces.append(replace(sample, box=box, attributes=rest))
    return annotated(table, table.parent, faces, rows.left_out, sizes_wh)


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What the words of a layout mean.

    Attributes:
        classes: names by number, where labels or folders are numbers; None where they are names.
        columns: name of the column by meaning (``path``, ``label``, ``split``, ``group``), where a table calls them
            something else.
        person: regular expression whose first group finds the person in a file name.
    """

    classes: Mapping[int, str] | None = None
    columns: Mapping[str, str] | None = None
    person: str = AIHUB_PERSON


def read_folders(root: Path, naming: Naming) -> Annotated:
    """Read ``root/<class>/…`` or ``root/<split>/<class>/…``; files that are not taken are listed as problems.

    Raises:
        DataError: see :func:`ferkit.datasets.dataset.read_folder`.
    """
    dataset = read_folder(root, naming.person)
    problems = list(dataset.left_out)
    faces = [_named(sample, naming, problems) for sample in dataset.samples]
    return annotated(root, root, [face for face in faces if face is not None], problems)


def read_list(table: Path, naming: Naming, images: Path | None = None) -> Annotated:
    """Read a table with a path and a label in each row, see :func:`ferkit.datasets.tables.read_table`; find its images.

    Names are found however Hangul is composed in them, and in upper or lower case where only one fits. Rows that
    cannot be used are listed as problems: no path, a split of no known name, a box that is none, an image that is not
    there, or a second row of one image.

    Args:
        table: without a header the columns are path and label.
        naming: of columns and classes.
        images: the folder that paths are relative to; None takes that of the table.

    Raises:
        DataError: no such table, columns that are not there, or nothing that can be used.
    """
    folder = table.parent if images is None else images
    rows = parse_table(table, naming.columns, folder)
    source = FileSource(folder)
    faces: dict[str, Sample] = {}
    problems = rows.left_out
    for sample in rows.samples:
        try:
            path = source.on_disk(sample.path)
        except FileNotFoundError as error:
            problems.append((sample.path, f"it is not there: {error.strerror}"))
            continue
        if path in faces:
            problems.append((path, "an earlier row names the same image"))
            continue
        group = sample.group or person_in(path, naming.person)
        named = _named(replace(sample, path=path, group=group), naming, problems)
        if named is not None:
            faces[path] = named
    return annotated(table, folder, faces.values(), problems)


def _named(sample: Sample, naming: Naming, problems: list[tuple[str, str]]) -> Sample | None:
    if naming.classes is None or sample.label is None:
        return sample
    try:
        why = f"its class is none of those given: {sample.label!r}"
        return replace(sample, label=class_of(sample.label, naming.classes, why))
    except DataError as error:
        problems.append((sample.path, str(error)))
        return None


def _kind_of(path: Path, columns: Mapping[str, str] | None) -> str:
    if path.is_dir():
        if any(_is_aihub(path / file) for file in files_below(path, ".json")[:20]):
            return "aihub"
        return "voc" if files_below(path, ".xml") else "none"
    if path.suffix.lower() == ".json":
        return "coco"
    if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
        with contextlib.suppress(DataError):  # load_dataset says what is wrong with it
            return "none" if table_columns(path, columns).box is None else "csv"
    return "none"


def _is_aihub(file: Path) -> bool:
    """Whether the beginning names an annotator; where that is broken, the other files decide."""
    try:
        with file.open("rb") as opened:
            head = opened.read(1 << 16)
    except OSError:
        return False
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = head[: len(head) // 2 * 2].decode("utf-16" if wide else "latin-1", "replace")
    return any(f'"{name}"' in text for name in ANNOTATORS)


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
        str(entry.get("id")): composed(str(entry.get("name", "")).strip()) for entry in content["categories"]
    }
    paths: dict[str, str] = {}
    for entry in content["images"]:
        name = str(entry.get("file_name", ""))
        with found.listing(name or file.name, f"; recorded in {file.name}"):
            path = found.images.find(name)
            if paths.setdefault(str(entry.get("id")), path) != path:
                raise DataError(f"another image has its number {entry.get('id')!r}")
            width, height = entry.get("width"), entry.get("height")
            if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
                found.sizes_wh[path] = width, height
    missing = {str(entry.get("id")) for entry in content["images"]} - paths.keys()
    for entry in content["annotations"]:
        if (image := str(entry.get("image_id"))) in missing:
            continue  # the image is listed already
        shown = f"annotation {entry.get('id')} of {file.name}"
        with found.listing(paths.get(image, shown), f"; {shown}"):
            found.faces.append(_face(entry, paths, categories, person_pattern))
    marked = {face.path for face in found.faces}
    found.list_unused(f"{file.name} marks nothing in it that can be used", marked)
    return found.annotated(file)


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    content = read_json(file)
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
    entry: dict[str, Any], paths: dict[str, str], categories: dict[str, str], person_pattern: str
) -> Sample:
    path = paths.get(str(entry.get("image_id")))
    if path is None:
        raise DataError(f"there is no image with the number {entry.get('image_id')!r}")
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(v, (int, float)) for v in bbox):
        raise DataError(f"expected a bbox of four numbers, found {bbox!r}")
    left, top, width, height = map(float, bbox)
    category = str(entry.get("category_id"))
    if category not in categories:
        raise DataError(f"there is no category with the number {entry.get('category_id')!r}")
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
