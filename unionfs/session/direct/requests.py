# SPDX-License-Identifier: Apache-2.0
"""The table of handlers of one mount, by opcode."""

from __future__ import annotations

from unionfs.filesystem import UnionFilesystem
from unionfs.session.abi import Opcode
from unionfs.session.direct.attributes import AttributeRequests
from unionfs.session.direct.data import DataRequests
from unionfs.session.direct.directories import DirectoryRequests
from unionfs.session.direct.files import FileRequests
from unionfs.session.direct.flags import FlagRequests
from unionfs.session.direct.habits import Habits
from unionfs.session.direct.mount import MountRequests
from unionfs.session.direct.names import NameRequests
from unionfs.session.direct.pace import Pace
from unionfs.session.direct.passthrough import Passthrough
from unionfs.session.direct.replies import Handler, MappedReplies, Replies
from unionfs.session.direct.unseen import UnseenWrites
from unionfs.session.direct.workers import Workers
from unionfs.session.notify import Notifier

# More would not help: they wait for a disk that has its own queue, and each keeps a buffer of one request.
_DATA_THREADS = 4


class Requests:
    """All handlers of one mount; a handler has its opcode's name in lower case."""

    def __init__(
        self, filesystem: UnionFilesystem, device_fd: int, max_write: int, notifier: Notifier
    ) -> None:
        self.filesystem = filesystem
        ids = filesystem.ids
        self.replies = replies = Replies(filesystem) if ids is None else MappedReplies(filesystem, ids)
        self.workers = Workers(device_fd, max_write, _DATA_THREADS)
        self.passthrough = passthrough = Passthrough(filesystem, device_fd, notifier)
        self.habits = habits = Habits()
        self.directories = DirectoryRequests(filesystem, replies, habits)
        unseen, pace = UnseenWrites(), Pace()
        groups = (
            MountRequests(filesystem, replies, passthrough, max_write),
            NameRequests(filesystem, replies, habits),
            AttributeRequests(filesystem, replies, notifier, unseen),
            FlagRequests(filesystem, replies, notifier),
            FileRequests(filesystem, replies, passthrough, notifier, unseen, pace),
            DataRequests(filesystem, replies, self.workers, passthrough.small, unseen, pace, max_write),
            self.directories,
        )
        self.table: dict[int, Handler] = {
            opcode: getattr(group, opcode.name.lower())
            for opcode in Opcode
            for group in groups
            if hasattr(group, opcode.name.lower())
        }
        self.names = {opcode: Opcode(opcode).name.lower() for opcode in self.table}
