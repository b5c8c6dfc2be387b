# SPDX-License-Identifier: Apache-2.0
"""copy_file_range(2) within a union: small ranges are copied at once, others by a thread."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.union import Union, Workshop, unionfs

SIZES = [1, 4095, 4096, 131072, 131073, 3 << 20]


def _copy(source: Path, target: Path) -> None:
    """Copy a file by copy_file_range alone."""
    with source.open("rb") as reading, target.open("wb") as writing:
        size = os.fstat(reading.fileno()).st_size
        done = 0
        while done < size:
            count = os.copy_file_range(reading.fileno(), writing.fileno(), size - done)
            assert count, "it ended early"
            done += count


@pytest.mark.parametrize("backing", ["here", "tmpfs", "ext4", "btrfs"])
def test_copy_of_a_range_gives_the_same_bytes(union: Workshop, backing: str) -> None:
    """Whatever its size, from a file above or below, on filesystems that copy and on those that share blocks."""
    if backing == "here":
        place = union.directory("place")
    elif backing == "tmpfs":
        place = union.filesystem("place")
    else:
        place = union.block_device("place", 400, backing)
    data = {f"f{size}": os.urandom(size) for size in SIZES}
    for name in ("top", "low"):
        (place / name).mkdir()
        for file, content in data.items():
            (place / name / f"{name}-{file}").write_bytes(content)
    u = union.mount("br:{top}=rw:{low}=ro", branches={"top": place / "top", "low": place / "low"})
    for file, content in data.items():
        for name in ("top", "low"):
            _copy(u / f"{name}-{file}", u / f"{name}-{file}-copy")
            assert (place / "top" / f"{name}-{file}-copy").read_bytes() == content


def test_copy_of_a_range_within_a_file(union: Workshop) -> None:
    """Offsets are kept apart; ranges that overlap are refused, and nothing changes."""
    u = union.mount(B0={"f": "0123456789"})
    with (u / "f").open("r+b") as file:
        fd = file.fileno()
        assert os.copy_file_range(fd, fd, 4, 0, 6) == 4
        with pytest.raises(OSError, match="Invalid argument"):
            os.copy_file_range(fd, fd, 4, 0, 2)
    assert (u.branch(0) / "f").read_text() == "0123450123"


def test_first_copies_at_once_are_all_made_by_the_server(union: Workshop) -> None:
    """None of them makes the kernel believe that the server cannot copy."""
    clients = 8
    u = union.mount("nopassthrough", B0={"f": "x" * 5000})
    barrier = threading.Barrier(clients)

    def copy(number: int) -> None:
        with (u / "f").open("rb") as reading, (u / f"copy{number}").open("wb") as writing:
            barrier.wait()
            assert os.copy_file_range(reading.fileno(), writing.fileno(), 5000) == 5000

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(copy, range(clients)))
    copy_range = "copy_file_range"
    before = _requests(u, copy_range)
    with (u / "f").open("rb") as reading, (u / "last").open("wb") as writing:
        assert os.copy_file_range(reading.fileno(), writing.fileno(), 5000) == 5000
    if u.session == "direct":
        assert _requests(u, copy_range) == before + 1


def _requests(u: Union, kind: str) -> int:
    """Return how many requests of a kind, and of its later forms, the server has counted."""
    counted = json.loads(unionfs("stats", "--json", u.mnt).stdout)
    return sum(each["count"] for name, each in counted.items() if name.startswith(kind))
