# SPDX-License-Identifier: Apache-2.0
"""Ask the kernel for what libfuse 3.14 knows how to serve but pyfuse3 gives no way to ask for.

libfuse is started on one end of a socket pair and plays INIT there; its answer gets more flags on the way to the kernel,
then the device takes the socket's place. Gained: DONT_MASK (the branch applies umask or default ACL, as a plain directory
does), cached symbolic links, and no file handles that would not survive a forget.
"""

from __future__ import annotations

import os
import socket
import struct

import pyfuse3
import trio

_DONT_MASK = 1 << 6
_CACHE_SYMLINKS = 1 << 23
_WANTED = _DONT_MASK | _CACHE_SYMLINKS
_FLAGS_OFFSET = 16 + 12  # in the reply: header, then major, minor, max_readahead
_REQUEST_FLAGS_OFFSET = 40 + 12
_BUFFER = 1 << 16


async def negotiate(operations: pyfuse3.Operations, device_fd: int) -> None:
    """Initialize pyfuse3's session on `device_fd`; afterwards `pyfuse3.main()` serves the mount.

    Raises OSError(ENODEV) if the mount went away before it was used.
    """
    inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    session_fd = inner.detach()  # libfuse owns and closes it
    with outer:
        outer.setblocking(False)
        pyfuse3.init(operations, f"/dev/fd/{session_fd}", {"fsname=unionfs"})
        await trio.lowlevel.wait_readable(device_fd)
        request = os.read(device_fd, _BUFFER)
        outer.send(request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            await trio.lowlevel.wait_readable(outer.fileno())
            reply = bytearray(outer.recv(_BUFFER))
            nursery.cancel_scope.cancel()
        offered = struct.unpack_from("=I", request, _REQUEST_FLAGS_OFFSET)[0]
        flags = struct.unpack_from("=I", reply, _FLAGS_OFFSET)[0]
        struct.pack_into("=I", reply, _FLAGS_OFFSET, flags | (_WANTED & offered))
        os.write(device_fd, reply)
        os.dup2(device_fd, session_fd)
