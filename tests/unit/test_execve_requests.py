# SPDX-License-Identifier: Apache-2.0
"""Which requests on attributes tell that their caller waits in a system call of its own, so that it may be looked at."""

import pytest

from unionfs.session import abi
from unionfs.session.abi import Opcode
from unionfs.session.direct.session import may_be_in_execve

_ASKED = {
    "chown": abi.FATTR_UID | abi.FATTR_GID,
    "chmod": abi.FATTR_MODE | abi.FATTR_CTIME,
    "truncate": abi.FATTR_SIZE | abi.FATTR_FH,
    "utimensat": abi.FATTR_ATIME | abi.FATTR_MTIME,
}
_FLUSHED = {
    "times": abi.FATTR_MTIME | abi.FATTR_CTIME,
    "times of an open file": abi.FATTR_MTIME | abi.FATTR_CTIME | abi.FATTR_FH,
    "one time": abi.FATTR_MTIME,
}


@pytest.mark.parametrize("valid", _ASKED.values(), ids=_ASKED)
def test_setattr_that_a_call_asks_for_is_of_a_waiting_thread(valid: int) -> None:
    """A change of mode, owner, size or access time is no work of the kernel's own."""
    body = abi.SETATTR_IN.pack(valid, *[0] * 12)
    assert not may_be_in_execve(Opcode.SETATTR, memoryview(body))


@pytest.mark.parametrize("valid", _FLUSHED.values(), ids=_FLUSHED)
def test_setattr_of_times_held_back_may_be_of_execve(valid: int) -> None:
    """It closes files, and what was held back of them is written then."""
    body = abi.SETATTR_IN.pack(valid, *[0] * 12)
    assert may_be_in_execve(Opcode.SETATTR, memoryview(body))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"security.capability\0", False),
        (b"system.posix_acl_access\0", False),
        (b"user.any\0", False),
        (b"security.selinux\0", True),
    ],
)
def test_getxattr_of_a_label_may_be_of_execve(name: bytes, expected: bool) -> None:
    """A security module looks at the files that stay open; capabilities are read before any is closed."""
    body = abi.GETXATTR_IN.pack(64, 0) + name
    assert may_be_in_execve(Opcode.GETXATTR, memoryview(body)) is expected
