# SPDX-License-Identifier: Apache-2.0
"""Reading and writing a small file whole: what `open` builds around a descriptor takes longer than that."""

from __future__ import annotations

import os

_PART = 65536


def absolute(path: str) -> str:
    """Return the absolute path for `path`; a `..` behind a symbolic link leads where the kernel goes, it is not cut as text."""
    return os.path.realpath(path) if ".." in path.split("/") else os.path.abspath(path)


def read(path: str) -> str:
    """Return the text of a file, however long; OSError carries its path."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _PART):
            parts.append(part)
    except OSError as error:  # a directory; a process that has ended
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "surrogateescape")


def write(path: str, text: str) -> None:
    """Write a file of proc, which is there and takes its text at once."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def lines(path: str) -> list[str]:
    """Return the lines of a file of proc. Only a newline ends one: other line ends may be part of a name."""
    return [line for line in read(path).split("\n") if line]
