# SPDX-License-Identifier: Apache-2.0
"""The working directory of a process: inside the container's root, or it does not start (CVE-2024-21626)."""

from __future__ import annotations

import errno
import os

from runtime.oci.failure import Failure, describe
from runtime.oci.rootfs import resolve

_MAGIC = "it leads through a magic link of /proc; give the directory itself"


def make(path: str) -> None:
    """Make the directory where it is missing; for a container's first process, before its root becomes read-only."""
    root = _root()
    try:
        os.close(resolve.make_directory(root, path))
    except OSError as error:
        # A file system that refuses a mkdir may still refuse it because the directory is there: entering tells.
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise Failure(
                f"cannot make the working directory {path}: {_reason(error)}", "correct process.cwd"
            ) from None
    finally:
        os.close(root)


def enter(path: str) -> bool:
    """Change to `path`; False if this user may not, who can try again as another."""
    try:
        root = _root()
        try:
            fd = resolve.find(root, path, flags=os.O_PATH | os.O_DIRECTORY)
        finally:
            os.close(root)
        if fd is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        try:
            os.fchdir(fd)
        finally:
            os.close(fd)
    except PermissionError:
        return False
    except OSError as error:
        hint = _MAGIC if error.errno == errno.ELOOP else ""
        raise Failure(f"chdir to working directory {path}: {_reason(error)}", hint) from None
    return True


def verify(path: str) -> None:
    """Refuse a current directory that is not below the present root."""
    try:
        inside = os.getcwdb().startswith(b"/")
    except FileNotFoundError:
        inside = False
    if not inside:
        raise Failure(f"working directory {path} is outside the container", "correct process.cwd")


def _root() -> int:
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _reason(error: OSError) -> str:
    error.filename = None
    return describe(error)
