"""Pascal VOC: an XML file a picture."""

import re
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

from ferkit.core.errors import DataError
from ferkit.datasets.annotations.annotated import Annotated, annotated, checked_box
from ferkit.datasets.annotations.join import PictureIndex, files_below
from ferkit.datasets.dataset import Sample
from ferkit.datasets.folder import AIHUB_PERSON


def read_voc(root: Path, person_pattern: str = AIHUB_PERSON) -> Annotated:
    """Read pictures and XML files, wherever they lie below ``root``, and join them by file name.

    A picture is found by ``<filename>``, or else by the name of its XML file. The class of each ``<object>`` is its
    label. VOC counts pixels from 1 and includes the last; boxes here count from 0 and leave it out.

    Args:
        root: the folder.
        person_pattern: regular expression whose first group finds the person in a file name.

    Raises:
        DataError: no folder, no XML file, or nothing that can be used.
    """
    pictures = PictureIndex(root)
    by_stem: dict[str, list[str]] = {}
    for path in pictures.paths:
        by_stem.setdefault(path.rpartition("/")[2].rpartition(".")[0], []).append(path)
    files = files_below(root, ".xml")
    if not files:
        raise DataError(f"expected VOC's XML files below {root}, found none")
    faces: list[Sample] = []
    problems = pictures.left_out
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
            path = _picture(pictures, by_stem, name, file)
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
                faces.append(_face(path, element, person_pattern))
            except DataError as error:
                problems.append((path, str(error)))
    problems += [(path, "there is no record of this picture") for path in pictures.paths if path not in read]
    return annotated(root, root, faces, problems, sizes_wh)


def _picture(pictures: PictureIndex, by_stem: dict[str, list[str]], name: str, file: str) -> str:
    try:
        return pictures.find(name, near=file)
    except DataError:
        # Tools that rename or convert pictures often leave the old name in the XML.
        same = by_stem.get(file.rpartition("/")[2].rpartition(".")[0], [])
        if len(same) != 1:
            raise
        return same[0]


def _face(path: str, element: ElementTree.Element, person_pattern: str) -> Sample:
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
