# SPDX-License-Identifier: Apache-2.0
"""What the control socket answers to commands that fail."""

import errno
import os

from unionfs.server.control import answer


def test_answer_to_an_error_at_a_descriptor_tells_it_without_a_name() -> None:
    """An OSError of a call on a descriptor has a number for its file name: that must not end the server."""

    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), 17)

    told = answer(b'{"command": "fail"}', {"fail": fail})
    assert told == {"ok": False, "errno": errno.EMFILE, "message": os.strerror(errno.EMFILE)}
