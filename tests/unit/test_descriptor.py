# SPDX-License-Identifier: Apache-2.0
"""Descriptors with several holders: open until the last has dropped them, and closed once."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.errnos import refused
from unionfs.kernel.descriptor import Descriptor, errand


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_descriptor_dropped_by_its_owner_stays_open_for_an_errand() -> None:
    """The number is not free for another file before the errand is done with it."""
    fd = os.memfd_create("file")
    owned = Descriptor(fd)
    work = errand(lambda: bytes(str(os.fstat(owned.fd).st_size), "ascii"), owned)
    owned.drop()
    other = os.memfd_create("other")
    assert other != fd
    assert work.function() == b"0"
    work.drop()
    assert not _is_open(fd)
    os.close(other)


def test_descriptor_after_its_last_drop_is_ebadf() -> None:
    """Who uses it all the same does not get the file that has its number now."""
    owned = Descriptor(os.memfd_create("file"))
    owned.drop()
    with refused("EBADF"):
        os.fstat(owned.fd)


@pytest.mark.parametrize("holders", [2, 8])
def test_descriptor_dropped_by_many_threads_is_closed_once(holders: int) -> None:
    """A second close would hit a file that was opened in between."""
    with ThreadPoolExecutor(holders) as pool:
        for _ in range(200):
            fd = os.memfd_create("file")
            owned = Descriptor(fd)
            for _ in range(holders - 1):
                owned.hold()
            for done in [pool.submit(owned.drop) for _ in range(holders)]:
                done.result()
            assert not _is_open(fd)
