# SPDX-License-Identifier: Apache-2.0
"""What a page that is written back changes of what was written past it."""

import os
import stat
from collections.abc import Iterator

import pytest

from unionfs.handles.handles import FileHandle
from unionfs.session.direct.unseen import UnseenWrites
from unionfs.tree.nodes import Node
from unionfs.tree.open_files import Handles

BEFORE = b"abcdefgh"
WRITER, READER = 7, 8  # threads


class Page:
    """A file of the branch, the writes that its page in the kernel has not seen, and a handle that may be mapped."""

    def __init__(self) -> None:
        self.node = Node(2, stat.S_IFREG)
        self.handle = FileHandle(self.node, os.memfd_create("file"), os.O_RDWR, 1)
        self.node.handles = Handles()
        self.node.handles.add(self.handle)
        self.unseen = UnseenWrites()
        os.pwrite(self.handle.fd, BEFORE, 0)

    def write(self, offset: int, data: bytes) -> None:
        self.unseen.note(self.handle, offset, len(data), WRITER)
        os.pwrite(self.handle.fd, data, offset)

    def written_back(self, data: bytes, offset: int = 0) -> bytes:
        os.pwrite(self.handle.fd, self.unseen.merge(self.handle, offset, memoryview(data)), offset)
        return os.pread(self.handle.fd, 100, 0)


@pytest.fixture
def page() -> Iterator[Page]:
    """Give a page filled with BEFORE."""
    made = Page()
    yield made
    made.handle.close()


def test_page_filled_before_a_write_does_not_undo_it(page: Page) -> None:
    """What it does not change stays as written, what it changes is changed."""
    page.write(2, b"XYZ")
    assert page.written_back(b"Mbcdefgh") == b"MbXYZfgh"
    assert page.written_back(b"Mbcd!fgh") == b"MbXY!fgh"


def test_page_filled_before_an_append_leaves_the_record(page: Page) -> None:
    """Zeros behind the former end are no data."""
    page.write(8, b"record")
    assert page.written_back(b"M" + BEFORE[1:] + bytes(6)) == b"Mbcdefghrecord"


def test_page_filled_after_a_write_is_believed(page: Page) -> None:
    """It may bring back on purpose what was there before."""
    page.write(2, b"XYZ")
    page.unseen.read(page.node, 0, 4096, READER)
    assert page.written_back(BEFORE) == BEFORE
    assert not page.unseen


def test_page_filled_after_an_append_that_the_kernel_has_not_taken_leaves_the_record(page: Page) -> None:
    """The kernel zeros it behind the former end, and may learn of the new one before it drops the page."""
    page.write(8, b"record")
    page.unseen.read(page.node, 0, 4096, READER)
    assert page.written_back(b"M" + BEFORE[1:] + bytes(6)) == b"Mbcdefghrecord"


@pytest.mark.parametrize("taken", ["by its thread", "by the next write", "by a page", "by a change"])
def test_page_filled_after_an_append_that_the_kernel_has_taken_is_believed(page: Page, taken: str) -> None:
    """Then whoever mapped the record may put zeros there."""
    page.write(8, b"record")
    if taken == "by the next write":
        page.write(0, b"a")
    elif taken == "by a page":
        page.written_back(BEFORE + b"record")
    elif taken == "by a change":
        page.unseen.changed(page.node, 1, 1)
    page.unseen.read(page.node, 0, 4096, WRITER if taken == "by its thread" else READER)
    assert page.written_back(BEFORE + bytes(6)) == BEFORE + bytes(6)


def test_page_filled_in_part_is_believed_there(page: Page) -> None:
    """Only the part that was read is known to the kernel."""
    page.write(2, b"XYZ")
    page.unseen.read(page.node, 3, 1, READER)
    assert page.written_back(BEFORE) == b"abXdZfgh"


def test_page_after_two_writes_is_compared_with_the_first_data(page: Page) -> None:
    """It was filled before both."""
    page.write(2, b"XYZ")
    page.write(3, b"123")
    assert page.written_back(BEFORE) == b"abX123gh"


def test_page_after_a_truncation_is_zero_behind_it(page: Page) -> None:
    """The kernel cut it there itself; what is written after that is compared with zeros."""
    page.write(6, b"XYZ")
    os.ftruncate(page.handle.fd, 7)
    page.unseen.truncated(page.node, 7)
    page.write(7, b"new")
    assert page.written_back(b"abcdefg" + bytes(3)) == b"abcdefXnew"


def test_writes_of_a_file_that_nobody_can_map_are_not_remembered(page: Page) -> None:
    """Nor are those that were, once the last handle for that is closed."""
    page.write(2, b"XYZ")
    assert page.node.handles is not None
    page.node.handles.clear()
    page.unseen.released(page.node)
    assert not page.unseen
    page.unseen.note(page.handle, 0, 4, WRITER)
    assert not page.unseen
