# SPDX-License-Identifier: Apache-2.0
"""A share of `make faults`: calls of the server and of commands fail or kill, and only the old or the new state is seen."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CAN_MOUNT
from tests.faults import injector
from tests.faults.__main__ import run
from tests.faults.plan import KILL, Plan
from tests.faults.report import Tally
from tests.faults.world import Configuration
from tests.support import tree
from tests.support.union import SESSIONS


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory that other users can get through."""
    reason = injector.why_not()
    if reason or not CAN_MOUNT:
        pytest.skip(reason or "mounting needs root and /dev/fuse")
    root = Path(tempfile.mkdtemp(prefix="unionfs-faults-"))
    root.chmod(0o755)
    yield root
    tree.remove_tree(root)


# Operations, errors, and every how many points: some ten points each.
_SHARES = {
    "removals": ("^(unlink-f|unlink-uf|rmdir-e)$", ("EIO", KILL), 5),
    "commit": ("^commit$", ("EIO", KILL), 71),
    "mvdown": ("^mvdown$", ("EIO", KILL), 9),
    "branches": ("^branch-(mod-rw|append)$", ("EIO",), 13),
}


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("share", _SHARES)
def test_faults_at_a_share_of_all_calls_leave_old_or_new(place: Path, session: str, share: str) -> None:
    """Also after a remount; with no descriptor, stage or wrong error left, and every repetition works."""
    operations, faults, every = _SHARES[share]
    plan = Plan(operations, faults, share=every)
    tally = Tally(Configuration(session, "aufs", "default"))
    run(tally, plan, place)
    assert tally.failed + tally.killed > 1
    assert not tally.violations


# What once moved a directory's times or did not, failed after it was done, or made two files of one: form, udba, operation, call.
_FOUND = {
    "fifo": ("aufs", "default", "mkfifo-w", "openat"),
    "fifo-of-a-user": ("overlay", "none", "mkfifo-n.n2.new", "openat"),
    "name-of-a-copy": ("overlay", "none", "synced-rename-h2-g", "renameat2"),
    "owner-of-what-is-not-opened": ("aufs", "default", "chown-s", "openat"),
    "link-over-a-whiteout": ("aufs", "default", "link-h1-w", "unlinkat"),
    "number": ("aufs", "default", "link-f-n.n2.g", "setxattr"),
}


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("found", _FOUND)
def test_faults_at_each_call_of_a_kind_leave_old_or_new(place: Path, session: str, found: str) -> None:
    """A directory in which nothing came to be keeps its times; the names of a file are one after a remount."""
    form, udba, operation, call = _FOUND[found]
    tally = Tally(Configuration(session, form, udba))
    run(tally, Plan(f"^{operation}$", ("EIO",), call), place)
    assert tally.failed > 0
    assert not tally.violations
