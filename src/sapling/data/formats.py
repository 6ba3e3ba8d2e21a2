"""What a file really is, told by its first bytes and not by its name. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import PurePosixPath

from sapling.data.base import Source
from sapling.data.layout import Item, is_image, is_visible, many, printable
from sapling.data.listing import Read

_LOOKED_AT = 100
HEAD_BYTES = 32
"""As many first bytes tell every format that is known here."""

_SUFFIXES = {
    "JPEG": ".jpg .jpeg .jpe .jfif",
    "PNG": ".png",
    "GIF": ".gif",
    "BMP": ".bmp",
    "WebP": ".webp",
    "AVIF": ".avif",
    "TIFF": ".tif .tiff",
    "PNM": ".ppm .pgm .pbm .pnm",
    "JPEG 2000": ".jp2 .j2k",
}
_FORMAT_OF = {suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)


def image_format(head: bytes) -> str | None:
    """Name the format of a file that begins with ``head``; None where it is no image that is known.

    Args:
        head: its first bytes, :data:`HEAD_BYTES` or more.
    """
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF"
    # P1 to P6, then a blank or a comment.
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n#":
        return "PNM"
    return None


def named_format(key: str) -> str | None:
    """Name the format that the ending of a file's name promises; None where it promises none."""
    return _FORMAT_OF.get(PurePosixPath(key).suffix.lower())


def hidden_images(paths: Iterable[str], read: Read) -> str:
    """Say which of the files that are not named as images are images nevertheless; empty where none is found.

    Args:
        paths: posix paths of all files.
        read: reads the start of a file; at most 100 are looked at.
    """
    others = sorted(path for path in paths if is_visible(path) and not is_image(path) and "/" in path)
    found = []
    for path in others[:_LOOKED_AT]:
        with suppress(OSError):
            if image_format(read(path, HEAD_BYTES)) is not None:
                found.append(printable(path))
    if not found:
        return ""
    listed = ", ".join(found[:3]) + (", .." if len(found) > 3 else "")
    return f"Among the ignored files {many(len(found), 'image')} without an ending that says so: {listed}."


def misnamed(source: Source) -> Iterator[tuple[Item, str]]:
    """Images whose ending says another format than they have; they are read all the same.

    Only the first bytes of every file are read. Files that are no image at all are not named here: decoding
    tells what is wrong with them.

    Yields:
        The image and the format that it has.
    """
    for item in source.items:
        promised = named_format(item.key)
        if promised is None:
            continue
        found = image_format(source.head(item, HEAD_BYTES))
        if found is not None and found != promised:
            yield item, found
