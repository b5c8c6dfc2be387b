# SPDX-License-Identifier: Apache-2.0
"""How requests of pyfuse3 are answered: errors as errnos, and callers and handles in each other's form."""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pyfuse3 import FileInfo, FUSEError, RequestContext

from unionfs.branches.lost import shown_errno
from unionfs.filesystem import UnionFilesystem
from unionfs.handles.handles import FileHandle
from unionfs.kernel.reserve import is_exhausted
from unionfs.operations.create import Caller

if TYPE_CHECKING:
    from unionfs.session.latencies import Statistics

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Awaitable[object]])


class Answering(Protocol):
    """Whose methods answer requests."""

    filesystem: UnionFilesystem
    statistics: Statistics


def answered(method: F) -> F:
    """Make every request end in an answer: OSError becomes its errno, anything else EIO and a traceback in the log."""
    kind = method.__name__

    @functools.wraps(method)
    async def answer(self: Answering, *arguments: Any) -> Any:  # Any: arguments and results differ by request
        start = time.perf_counter()
        try:
            again = False
            while True:
                try:
                    return await method(self, *arguments)
                except OSError as error:
                    if self.filesystem.notice(error):
                        continue
                    # Nothing was done, but a listing may be answered in part.
                    whole = is_exhausted(error) and kind != "readdir"
                    if again or not whole or not self.filesystem.make_room():
                        raise FUSEError(shown_errno(error)) from None
                    again = True
        except FUSEError:
            raise
        except Exception:
            log.exception("%s failed", kind)
            raise FUSEError(errno.EIO) from None
        finally:
            self.statistics.count(kind, time.perf_counter() - start)

    return cast(F, answer)


def caller_of(context: RequestContext) -> Caller:
    return Caller(context.uid, context.gid, context.pid, context.umask)


def file_info(handle: FileHandle, number: int, flags: int) -> FileInfo:
    """Return how the kernel is to use a handle: appended data may become zeros in its page cache (`Replies.bypasses_cache`).

    What is also opened for reading stays there, for it might be mapped, which the kernel refuses then; and so does what has
    rights to lose: past the cache the kernel leaves that to the server, which is not told who writes.
    """
    appends = flags & os.O_APPEND and flags & os.O_ACCMODE == os.O_WRONLY
    return FileInfo(fh=number, keep_cache=True, direct_io=bool(appends) and not _has_rights(handle.fd))


def _has_rights(fd: int) -> bool:
    """Tell whether a write would clear set-id bits or file capabilities."""
    if os.fstat(fd).st_mode & (stat.S_ISUID | stat.S_ISGID):
        return True
    try:
        os.getxattr(fd, "security.capability")
    except OSError:
        return False
    return True
