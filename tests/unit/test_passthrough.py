# SPDX-License-Identifier: Apache-2.0
"""Which opens pass through: the whole table of states."""

import contextlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from unionfs.branches.branch import Branch, OpenBranch, open_branch
from unionfs.operations.following import beginning
from unionfs.session.direct.passthrough import Plan, plan

BOTH = (False, True)


def test_plan_never_mixes_modes_and_never_writes_to_a_branch_that_is_not_writable() -> None:
    """Over every combination; a nodeid is passing or ordinary, not both."""
    for passing, ordinary, writable, writes, keeps in product(BOTH, repeat=5):
        if passing and ordinary:
            continue
        chosen = plan(passing=passing, ordinary=ordinary, writable=writable, writes=writes, keeps=keeps)
        if chosen is Plan.PASSING:
            assert not ordinary and (writable or not writes)
        if chosen is Plan.ORDINARY:
            assert not passing
        assert (chosen is Plan.STALE) == (passing and writes and not writable)


def test_plan_of_a_first_open_passes_whatever_may() -> None:
    """Upper files always do; lower ones to read, where their readers may keep them."""

    def first(*, writable: bool, writes: bool, keeps: bool) -> Plan:
        return plan(passing=False, ordinary=False, writable=writable, writes=writes, keeps=keeps)

    assert all(first(writable=True, writes=w, keeps=k) is Plan.PASSING for w in BOTH for k in BOTH)
    assert first(writable=False, writes=False, keeps=True) is Plan.PASSING
    assert first(writable=False, writes=False, keeps=False) is Plan.ORDINARY
    assert first(writable=False, writes=True, keeps=True) is Plan.ORDINARY


@contextlib.contextmanager
def opened(*paths: Path) -> Iterator[list[OpenBranch]]:
    """Open directories as branches."""
    with contextlib.ExitStack() as stack:
        branches = []
        for number, path in enumerate(paths):
            path.mkdir(exist_ok=True)
            branches.append(open_branch(Branch(str(path), "ro"), index=number, id=number))
            stack.callback(branches[-1].close)
        yield branches


def test_beginning_of_a_private_overlay_contains_no_upper_branch(tmp_path: Path) -> None:
    """Where the lower branch contains the upper one: the first directory that does not, and none for what is beside it."""
    with opened(tmp_path / "low", tmp_path / "top", tmp_path / "low/a", tmp_path / "lower") as branches:
        low, top, inside, beside = branches
        for path in (b"f", b"a/f", b"a/b/f"):
            assert beginning(low, top, path) == beginning(low, beside, path) == b""
        assert beginning(low, inside, b"f") is None
        assert beginning(low, inside, b"a/f") is None
        assert beginning(low, inside, b"a/b/f") == b"a/b"
        assert beginning(low, inside, b"b/f") == b"b"
        assert beginning(low, inside, b"b/a/f") == b"b"
