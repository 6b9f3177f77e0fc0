"""The segments of a JPEG file: its size before anything is decoded, and its pixels without its metadata.

Source: ITU-T T.81 (markers, annex B); JFIF (T.871) for APP0; Adobe's APP14 tells the color transform.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

START, END, SCAN = 0xD8, 0xD9, 0xDA
# A frame's marker says how it is coded; C4, C8 and CC of that range are tables and reserved ones.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
APP0, APP14, APP15, COMMENT = 0xE0, 0xEE, 0xEF, 0xFE
# Markers without a length behind them: restarts, start and end of image, TEM.
_BARE = frozenset(range(0xD0, 0xDA)) | {0x01}
# In a scan's coded data FF is followed by 00, by a restart, or by another FF that pads.
_SCAN_ENDS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MARKER = re.compile(rb"\xff[^\x00\xff]")


class JpegError(ValueError):
    """Bytes that do not follow the structure of a JPEG; the message says where they end."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What the header says of the pixels."""

    coding: int
    """The frame's marker: BASELINE, EXTENDED, PROGRESSIVE or another."""
    precision: int
    """Bits a channel."""
    width: int
    height: int
    components: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A marker with what belongs to it: `data[start:stop]` from FF to the last byte, coded data included."""

    marker: int
    start: int
    stop: int


def segments(data: bytes) -> Iterator[Segment]:
    """The segments from SOI to EOI. As libjpeg does, bytes between segments are passed over.

    Raises:
        JpegError: no JPEG, or cut off before EOI.
    """
    if not data.startswith(b"\xff\xd8"):
        raise JpegError("it is not a JPEG")
    yield Segment(marker=START, start=0, stop=2)
    place = 2
    while True:
        found = _MARKER.search(data, place)
        if found is None:
            raise JpegError("it is truncated")
        start, stop = found.end() - 2, found.end()
        marker = data[stop - 1]
        if marker not in _BARE:
            length = int.from_bytes(data[stop : stop + 2], "big")
            if length < 2 or stop + length > len(data):
                raise JpegError("it is truncated" if length >= 2 else "one of its segments has no length")
            stop += length
        if marker == SCAN:
            ends = _SCAN_ENDS.search(data, stop)
            if ends is None:
                raise JpegError("it is truncated")
            stop = ends.start()
        yield Segment(marker=marker, start=start, stop=stop)
        if marker == END:
            return
        place = stop


def read_frame(data: bytes) -> Frame:
    """Read the frame header without walking the coded data.

    Raises:
        JpegError: there is none before the first scan.
    """
    for segment in segments(data):
        if segment.marker in FRAMES:
            return _frame(data, segment)
        if segment.marker == SCAN:
            break
    raise JpegError("it has no frame")


def strip_metadata(data: bytes) -> bytes:
    """The same pixels without EXIF, XMP, ICC profile, IPTC, comments, thumbnails and what stands behind EOI.

    JFIF's APP0 and Adobe's APP14 stay, since a decoder takes the color transform from them; all else is kept byte for
    byte.

    Raises:
        JpegError: not a whole JPEG.
    """
    return b"".join(_without_metadata(data, segment) for segment in segments(data))


def _without_metadata(data: bytes, segment: Segment) -> bytes:
    content = data[segment.start + 4 : segment.stop]
    if segment.marker == APP0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        # Behind version, units and density: a thumbnail of 0 x 0.
        return b"\xff\xe0\x00\x10" + content[:12] + b"\x00\x00"
    if segment.marker == APP14 and content.startswith(b"Adobe") and len(content) >= 12:
        return b"\xff\xee\x00\x0e" + content[:12]
    if APP0 <= segment.marker <= APP15 or segment.marker == COMMENT:
        return b""
    return data[segment.start : segment.stop]


def _frame(data: bytes, segment: Segment) -> Frame:
    content = data[segment.start + 4 : segment.stop]
    if len(content) < 6:
        raise JpegError("its frame header is too short")
    return Frame(
        coding=segment.marker,
        precision=content[0],
        height=int.from_bytes(content[1:3], "big"),
        width=int.from_bytes(content[3:5], "big"),
        components=content[5],
    )
