"""What paths and URIs tell by themselves, and folders that links lead to."""

from __future__ import annotations

import glob
import os

from rsrnet.uris import is_uri
from rsrnet_platform.prediction.ledger import MASKS, OVERLAYS

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def split(where: str) -> tuple[str, str]:
    """The folder of a path or a URI, and the name in it."""
    if not is_uri(where):
        return os.path.split(where)
    whole, mark, query = without_query(where)
    folder, _, name = whole.rpartition("/")
    return folder + mark + query, name


def joined(root: str, name: str) -> str:
    """The URI of a file in a folder."""
    return f"{without_query(root)[0].rstrip('/')}/{name}"


def without_query(uri: str) -> tuple[str, str, str]:
    """What stands before the options of a URI (``s3://bucket/x?region=...``), the question mark, and they."""
    whole, mark, query = uri.partition("?")
    return (whole, mark, query) if "=" in query else (uri, "", "")


def is_image(name: str) -> bool:
    """Whether a file is called as an image that is read."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def has_magic(source: str) -> bool:
    """Whether this is a pattern."""
    return glob.has_magic(without_query(source)[0] if is_uri(source) else source)


def written(path: str, output: str) -> bool:
    """Whether this is, or is in, a folder of pictures in the output."""
    where = output if is_uri(output) else os.path.realpath(output)
    return f"{path}/".startswith(tuple(f"{where.rstrip('/')}/{folder}/" for folder in (MASKS, OVERLAYS)))


def goes_round(folder: str, base: str) -> bool:
    """Whether the way down from the base passes a folder twice, through a link: its images have been found."""
    if os.path.realpath(folder) == os.path.join(os.path.realpath(base), os.path.relpath(folder, base)):
        return False  # no link on the way
    passed: set[str] = set()
    while len(folder) > len(base) and os.path.basename(folder) != "..":
        passed.add(os.path.realpath(folder))
        folder = os.path.dirname(folder)
        if os.path.realpath(folder) in passed:
            return True
    return False
