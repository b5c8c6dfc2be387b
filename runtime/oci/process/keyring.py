# SPDX-License-Identifier: Apache-2.0
"""The session keyring of a container."""

from __future__ import annotations

import errno

from runtime.oci.failure import Step
from runtime.oci.process import syscalls

_SEARCHABLE_BY_USER = 0x00080000
# A kernel without keyrings; a seccomp profile around us that forbids them; a user with too many.
_DO_WITHOUT = (errno.ENOSYS, errno.EPERM, errno.EDQUOT, errno.EACCES)


def join(name: str) -> None:
    """Join the session keyring `_ses.NAME`, new for a new container, so that it sees no key of the caller's.

    A process that joins the container later finds the same one by its name; that takes the right to search it.
    """
    with Step("cannot make a session keyring", "give --no-new-keyring to keep the caller's"):
        try:
            serial = syscalls.join_session_keyring(b"_ses." + name.encode())
            syscalls.set_keyring_permissions(
                serial, syscalls.keyring_permissions(serial) | _SEARCHABLE_BY_USER
            )
        except OSError as error:
            if error.errno not in _DO_WITHOUT:
                raise
