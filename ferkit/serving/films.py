"""Films from outside: taken in piece by piece, refused by their first bytes."""

import errno
import shutil
from pathlib import Path

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from ferkit.serving.errors import Refused

_PIECE = 1 << 20


_HEAD = 400
"""Bytes that tell what a film is."""


def film_suffix(start: bytes) -> str | None:
    """What the first 400 bytes of a film say that it is; None for all that is not taken.

    Playlists and scripts, which could make a reader open other files, begin otherwise.
    """
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return ".mp4"
    if start[:4] == b"\x1aE\xdf\xa3":
        return ".mkv"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return ".gif"
    if len(start) > 376 and start[0] == start[188] == start[376] == 0x47:
        return ".ts"
    return ".avi" if start[:4] == b"RIFF" and start[8:12] == b"AVI " else None


async def receive_film(request: Request, folder: Path) -> Path:
    """Write the film of a request into ``folder`` and give its path.

    Raises:
        Refused: there is none (422), or it is of no known kind (415).
    """
    path = folder / "upload"
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            await _from_form(request, path)
        else:
            await _from_body(request, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Refused(503, "no_room", "There is no room for the film; try again later.", 60) from None
    with path.open("rb") as file:
        suffix = _checked(file.read(_HEAD))
    return path.rename(path.with_name(f"film{suffix}"))


async def _from_form(request: Request, path: Path) -> None:
    async with request.form(max_files=1, max_fields=16, max_part_size=1000) as form:
        part = form.get("file")
        if not isinstance(part, UploadFile):
            raise Refused(422, "no_film", "Expected a film as the part called 'file', with a file name.")
        _checked(await part.read(_HEAD))
        await part.seek(0)
        with path.open("wb") as file:
            await run_in_threadpool(shutil.copyfileobj, part.file, file, _PIECE)


async def _from_body(request: Request, path: Path) -> None:
    waiting = bytearray()
    known = False
    with path.open("wb") as file:
        async for piece in request.stream():
            waiting += piece
            if not known and len(waiting) >= _HEAD:
                _checked(bytes(waiting[:_HEAD]))
                known = True
            if len(waiting) >= _PIECE:
                await run_in_threadpool(file.write, bytes(waiting))
                waiting.clear()
        if waiting:
            await run_in_threadpool(file.write, bytes(waiting))


def _checked(start: bytes) -> str:
    if not start:
        raise Refused(422, "no_film", "Expected a film as the body, or as the part 'file'.")
    suffix = film_suffix(start)
    if suffix is None:
        raise Refused(415, "unknown_kind", "Expected a film: MP4, MOV, WebM, MKV, AVI, TS or GIF.")
    return suffix
