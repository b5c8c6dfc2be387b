# SPDX-License-Identifier: Apache-2.0
"""What is no longer needed once an operation is done: removed at once, or else later.

An operation that is done must not be reported as failed because tidying up after it was. So nothing here raises: what cannot be
removed is logged, remembered, and tried again when a union is closed. Knows nothing of unions; threads may use it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import threading
from collections.abc import Callable

from unionfs.branches import whiteout
from unionfs.branches.metadata import try_to_restore_times
from unionfs.kernel.reserve import is_exhausted, spares

log = logging.getLogger(__name__)

# So many are remembered, each with a descriptor of its directory. Of further ones the next mount sweeps the stages, and
# `unionfs check` finds the rest.
_MOST = 64

_left: list[tuple[int, bytes, Callable[[int], bool]]] = []
_lock = threading.Lock()


def remove_tree(dirfd: int, name: bytes) -> None:
    """Remove a staged entry, whatever it is, following no link; fine if it is missing, or somebody else removes it as well."""
    status = whiteout.exists(dirfd, name)
    if status is None:
        return
    if stat.S_ISDIR(status.st_mode):
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=dirfd)  # needs no descriptor, of which there may be none
            return
        shutil.rmtree(name, dir_fd=dirfd, onerror=_raise_unless_missing)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=dirfd)


def _raise_unless_missing(
    _call: object, _path: object, failure: tuple[object, BaseException, object]
) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def discard(dirfd: int, name: bytes) -> None:
    """Remove a stage."""
    try:
        try:
            remove_tree(dirfd, name)
        except OSError as error:
            if not is_exhausted(error):
                raise
            with spares.lent():
                remove_tree(dirfd, name)
    except OSError as error:
        _remember(dirfd, name, error, lambda _: True)


def discard_whiteout(dirfd: int, name: bytes) -> None:
    """Remove AUFS' whiteout of `name`, whose entry is beside it by now; a missing one is fine."""
    mark = whiteout.PREFIX + name
    try:
        os.unlink(mark, dir_fd=dirfd)
    except FileNotFoundError:
        pass
    except OSError as error:
        # Later the entry may be gone, and its whiteout needed.
        _remember(dirfd, mark, error, lambda fd: whiteout.exists(fd, name) is not None)


def discard_device(dirfd: int, name: bytes) -> None:
    """Remove overlayfs' whiteout `name`, which hides nothing; so one that stays is only logged."""
    try:
        os.unlink(name, dir_fd=dirfd)
    except OSError as error:
        log.warning("the whiteout %s, which hides nothing, stays: %s", os.fsdecode(name), error.strerror)


def _remember(dirfd: int, name: bytes, error: OSError, is_left: Callable[[int], bool]) -> None:
    log.warning("cannot remove %s, which is not needed any more: %s", os.fsdecode(name), error.strerror)
    try:
        own = os.dup(dirfd)
    except OSError:
        return
    with _lock:
        _left.append((own, name, is_left))
        dropped = _left.pop(0)[0] if len(_left) > _MOST else -1
    if dropped >= 0:
        os.close(dropped)


def retry() -> None:
    """Try again to remove what could not be removed, once."""
    with _lock:
        entries = _left[:]
        _left.clear()
    for fd, name, is_left in entries:
        try:
            if is_left(fd):
                times = os.fstat(fd)
                remove_tree(fd, name)
                try_to_restore_times(fd, times)  # they moved when the operation was done
        except OSError as error:
            log.warning("%s stays: %s", os.fsdecode(name), error.strerror)
        finally:
            os.close(fd)
