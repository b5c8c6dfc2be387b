# SPDX-License-Identifier: Apache-2.0
"""Reading, writing and walking the files of a hierarchy."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGE = 1 << 16


def read(directory: str, file: str) -> str | None:
    """Return a file's text without the white space around it; None if there is no such file, or no group any more."""
    try:
        fd = os.open(f"{directory}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts = []
        while data := os.read(fd, _LARGE):
            parts.append(data)
    except OSError:  # ENODEV: the group went away; EOPNOTSUPP: a file that a threaded group does not fill
        return None
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "surrogateescape").strip()


def write(directory: str, file: str, *texts: str) -> None:
    """Write each text with a write of its own; OSError carries the file's path."""
    path = f"{directory}/{file}"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for text in texts:
            os.write(fd, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def tree(directory: str) -> Iterator[str]:
    """Yield the directories of a group, deepest first; nothing if it does not exist."""
    try:
        with os.scandir(directory) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in below:
        yield from tree(path)
    yield directory


def counter(text: str | None, name: str) -> int:
    """Return the number behind `name` in a file of "NAME NUMBER" lines, 0 if it is not there."""
    for line in (text or "").splitlines():
        word, _, value = line.partition(" ")
        if word == name:
            return int(value)
    return 0
