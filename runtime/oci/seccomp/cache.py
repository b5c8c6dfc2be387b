# SPDX-License-Identifier: Apache-2.0
"""Compiled profiles on disk: compiling takes longer than starting a container, reading takes nothing.

An entry is a file named by a hash of what it was compiled from (docs/formats.md). It decides what a container may do, so it is
believed only if it, and the directory, belong to us and nobody else may write them. Without a cache that can be trusted, or any
at all, the profile is compiled each time.
"""

from __future__ import annotations

import os
import stat
import struct

try:
    from _sha256 import sha256  # type: ignore[import-not-found, unused-ignore]  # hashlib would load OpenSSL first
except ImportError:  # Python 3.12 and later
    from hashlib import sha256

_MAGIC = b"URTSECC1"
_HEADER = "=8sqqqH"  # magic, then of libseccomp: mtime in ns, size, inode, length of its path
_DIGEST = 32
_LARGEST = 1 << 16
_MOST = 64  # entries; an engine has a handful
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW


def key(*parts: object) -> str:
    """Return the name of the entry for these values: None, numbers, strings, and lists and dictionaries of such."""
    return str(sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest())


def load(directory: str, name: str) -> bytes | None:
    """Return the program stored under `name`; None if there is none that can be believed and is up to date."""
    folder = _open_directory(directory)
    if folder < 0:
        return None
    try:
        data = _read(folder, name)
    except OSError:
        return None
    finally:
        os.close(folder)
    if data is None or len(data) < _DIGEST + struct.calcsize(_HEADER):
        return None
    body = data[_DIGEST:]
    if sha256(body).digest() != data[:_DIGEST]:  # a crash may leave a file of zeros
        return None
    magic, modified, size, inode, length = struct.unpack_from(_HEADER, body)
    end = struct.calcsize(_HEADER) + length
    path, program = body[struct.calcsize(_HEADER) : end], body[end:]
    if magic != _MAGIC or _identity(path) != (modified, size, inode):
        return None
    return program


def store(directory: str, name: str, program: bytes) -> None:
    """Keep `program` under `name`. What cannot be kept is not: that costs time only."""
    library = _library()
    identity = _identity(library)
    if identity is None or len(program) > _LARGEST - 4096:
        return
    body = struct.pack(_HEADER, _MAGIC, *identity, len(library)) + library + program
    try:
        os.mkdir(directory, 0o700)
    except OSError:  # there already, or _open_directory tells
        pass
    folder = _open_directory(directory)
    if folder < 0:
        return
    try:
        _replace(folder, name, sha256(body).digest() + body)
        _prune(folder)
    except OSError:
        pass
    finally:
        os.close(folder)


def _open_directory(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OPEN)
    except OSError:
        return -1
    status = os.fstat(fd)
    if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
        return fd
    os.close(fd)
    return -1


def _read(folder: int, name: str) -> bytes | None:
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _OPEN, dir_fd=folder)
    try:
        status = os.fstat(fd)
        trusted = status.st_uid == os.geteuid() and not status.st_mode & 0o022
        if not trusted or not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            return None
        return os.read(fd, _LARGEST)
    finally:
        os.close(fd)


def _replace(folder: int, name: str, data: bytes) -> None:
    draft = f".{name}.{os.getpid()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=folder)
    try:
        if os.write(fd, data) == len(data):
            os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
    finally:
        os.close(fd)
    os.unlink(draft, dir_fd=folder)


def _prune(folder: int) -> None:
    """Forget all but the newest half of the entries when there are too many, also drafts of processes that were killed."""
    names = os.listdir(folder)
    if len(names) <= _MOST:
        return
    names.sort(key=lambda name: os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns)
    for name in names[: _MOST // 2]:
        os.unlink(name, dir_fd=folder)


def _library() -> bytes:
    """Return the path of the libseccomp that is loaded."""
    with open("/proc/self/maps", "rb") as lines:
        for line in lines:
            if b"/libseccomp.so" in line:
                return line.split(maxsplit=5)[5].rstrip(b"\n")
    return b""


def _identity(path: bytes) -> tuple[int, int, int] | None:
    """Return what changes when libseccomp is upgraded: a new one knows more system calls."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
