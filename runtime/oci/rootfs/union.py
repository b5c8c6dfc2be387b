# SPDX-License-Identifier: Apache-2.0
"""The root or a mount of type `unionfs`: FUSE in the container's own mount namespace, served by whoever listens at a socket.

It is made detached and attached by init, so nobody else ever sees it, and it ends with the container's mount namespace: the
server then reads ENODEV. The server gets the FUSE descriptor in one message of a SOCK_SEQPACKET connection, "fuse " and the
object {"id", "bundle", "destination"}; it need not answer. We keep no copy of it: the connection is to end with its server.

Facts of the kernel that decide who makes it: the server is told the pids of its callers as the pid namespace of the process
that mounts numbers them, so that must be one of the host's; and the device must have been opened in the user namespace that
owns the mount. Hence the parent makes it, or, if the container has a user namespace, stage does once it is in there.
"""

from __future__ import annotations

import os
import stat

from runtime.oci import channel as messages
from runtime.oci import jsontext
from runtime.oci.failure import Failure, Step
from runtime.oci.rootfs import devices, filesystems, resolve, syscalls
from runtime.oci.rootfs.mountflags import Options
from runtime.oci.rootfs.mounts import Mount, refuse_proc_cover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DEVICE = "/dev/fuse"
_NUMBER = os.makedev(10, 229)
_HINT = "load the fuse module, and let this user open the device"
# The kernel checks modes and owners itself, for every user of the container.
_ALWAYS = (
    "rootmode=40000",
    "user_id=0",
    "group_id=0",
    "allow_other",
    "default_permissions",
    "subtype=unionfs",
)


class Union(Mount):
    """One such mount; `source` is the socket's path, `where` "/" for the root. Options are the mount's, or FUSE's."""

    __slots__ = ("_server", "_tree")

    def __init__(self, where: str, source: str, options: Options) -> None:
        super().__init__(where, "unionfs", source, options)
        self._server: messages.Channel | None = None
        self._tree = -1

    def connect(self) -> None:
        """Connect to the server; called by the parent, which may go where the socket is."""
        with Step(f"connect to the server of the union on {self.where}", "start it before the container"):
            self._server = messages.connect(self.source)

    def make(self, device: int, description: str) -> None:
        """Make the mount, hand the server the descriptor `device` with the JSON text `description`, and close it."""
        try:
            words = [f"fd={device}", *_ALWAYS, *self.options.superblock, *self.options.data]
            with Step(self.title()):
                self._tree = filesystems.new_filesystem("fuse", "unionfs", words, self.options.add)
            server = self._server
            if server is None or not messages.send(server, "fuse", description, [device]):
                raise Failure(f"{self.title()}: its server has gone")
        finally:
            os.close(device)

    def attach(self, root: int) -> None:
        """Attach the mount to its target, which is made where it is missing."""
        target = resolve.make_directory(root, self.where, links=not self.options.target_nofollow)
        try:
            refuse_proc_cover(target, self.where, self.kind)
            syscalls.move_mount(self._tree, target)
            self.propagate(self._tree)
        finally:
            os.close(target)
            self.close()

    def become_root(self) -> int:
        """Attach the mount to the current directory and return its descriptor, which is then the caller's."""
        target = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.move_mount(self._tree, target)
        finally:
            os.close(target)
        tree, self._tree = self._tree, -1
        self.close()
        return tree

    def close(self) -> None:
        """Close what is open; a mount that is not attached ends with that."""
        if self._tree >= 0:
            os.close(self._tree)
            self._tree = -1
        if self._server is not None:
            self._server.close()
            self._server = None


def make_node() -> int:
    """Return a detached tmpfs with a FUSE device that the root of a user namespace may open too, which often only root may.

    -1 where that is refused. Nobody else can reach it.
    """
    return devices.make_nodes([devices.Device(DEVICE, stat.S_IFCHR | 0o666, _NUMBER)], ([], []))


def make_all(unions: Sequence[Union], node: int, description: dict[str, str]) -> None:
    """Make the mounts, in the user namespace that is to own them; `node` is what `make_node` returned, or -1."""
    for union in unions:
        with Step(f"{union.title()}: open {DEVICE}", _HINT):
            how = os.O_RDWR | os.O_CLOEXEC
            device = os.open("0", how, dir_fd=node) if node >= 0 else os.open(DEVICE, how)
        union.make(device, jsontext.dumps({**description, "destination": union.where}))
