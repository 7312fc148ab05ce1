"""Tell whether a video's file was cut off, by what its container says of lengths and ends."""

import os
import struct
from pathlib import Path
from typing import IO

_BOXES = (b"ftyp", b"moov", b"mdat", b"moof")
"""Parts of MP4 and MOV files, each of which says how long it is."""

_TAIL = 1 << 20
"""Bytes at the end that are looked through; the sound of the last second lies in them."""


def is_cut_off(path: Path) -> bool:
    """Whether a file's own structure says that its end is missing.

    Of MP4, Matroska, WebM, AVI, Ogg, FLV, WMV, MPEG-TS, GIF, APNG and MJPEG; other kinds do not say so. Files that
    end between two packets say so if they are Ogg, or tell their size.
    """
    with path.open("rb") as file:
        start, size = file.read(8192), file.seek(0, os.SEEK_END)
        if start[4:8] in (*_BOXES, *_OTHER_BOXES):
            return _misses_boxes(file, size)
        if start[:4] == b"\x1a\x45\xdf\xa3":
            return _misses_elements(file, size)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    for n, first in ((188, 0), (192, 4), (204, 0)):
        if start[first::n][:3] == b"GGG":
            return size % n > 0 or _misses_sound(
                [tail[i + first :][:188] for i in range(len(tail) % n, len(tail), n)]
            )
    match start[:3]:
        case b"GIF":
            return not tail.rstrip(b"\0").endswith(b"\0;")
        case b"RIF":
            return 8 + int.from_bytes(start[4:8], "little") > size
        case b"Ogg":  # the last page is one that ends a stream, and has all that its table counts
            page = tail[tail.rfind(b"OggS") :]
            return len(page) < 28 or not page[5] & 4 or 27 + page[26] + sum(page[27:][: page[26]]) > len(page)
        case b"FLV":  # each tag is followed by its length
            said = start.partition(b"filesize\0")[2][:8].rjust(8, b"\0")
            if struct.unpack(">d", said)[0] > size:
                return True
            n = int.from_bytes(tail[-4:], "big")
            return n != 11 + int.from_bytes(tail[-3 - n :][:3], "big")
        case b"\x89PN":
            return b"IEND\xaeB`\x82" not in tail
        case b"\xff\xd8\xff":
            return tail.rfind(b"\xff\xd9") < tail.rfind(b"\xff\xd8\xff")
    properties = start.partition(_ASF_PROPERTIES)[2]
    is_broadcast = properties[72:73] == b"\1"
    return not is_broadcast and int.from_bytes(properties[24:32], "little") > size


_OTHER_BOXES = (b"wide", b"free", b"skip", b"sidx", b"styp", b"uuid")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _misses_boxes(file: IO[bytes], size: int) -> bool:
    at, kind = 0, _BOXES[0]
    while kind in (*_BOXES, *_OTHER_BOXES) and at < size:
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        at += (int.from_bytes(head[8:], "big") if length == 1 else length) or size
        if kind in _BOXES and at > size:
            return True
    return False


def _misses_elements(file: IO[bytes], size: int) -> bool:
    """Of Matroska and WebM; recordings do not say how long the whole is, yet each of their blocks does."""
    at, is_open = 0, False
    while at < size:
        file.seek(at)
        head = file.read(12).ljust(12, b"\0")
        n = 9 - head[0].bit_length()  # as many bytes as the first has zeros before its first one
        m = 9 - head[n].bit_length() if n < 5 else 9
        if m > 8:
            return is_open and size - at < 12
        every_bit = (1 << 7 * m) - 1
        length = int.from_bytes(head[n : n + m], "big") & every_bit
        is_open |= length == every_bit  # not said: what it holds comes next
        at += n + m + (0 if length == every_bit else length)
    return at > size


def _misses_sound(packets: list[bytes]) -> bool:
    """Whether one of the pieces of a transport stream that say how long they are is not there to its end."""
    missing: dict[int, int] = {}
    for packet in packets:
        pid = int.from_bytes(packet[1:3], "big") & 0x1FFF
        data = packet[5 + packet[4] if packet[3] & 0x20 else 4 :]
        if packet[1] & 0x40:
            length = int.from_bytes(data[4:6], "big") if data[:3] == b"\0\0\1" else 0
            missing[pid] = length + 6 if length else 0
        missing[pid] = missing.get(pid, 0) - len(data)
    return max(missing.values(), default=0) > 0
