# SPDX-License-Identifier: Apache-2.0
"""Which branch takes a change (docs/aufs.md §4): every create and copy-up policy over branches without a mount.

The directory is `p`. Free space is given to the policies as readings they made: those of this machine are of one filesystem.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.core import layers, opened, outcome
from unionfs.branches.branch import OpenBranch
from unionfs.branches.whiteout import Layers
from unionfs.operations.policy import Policies
from unionfs.options.aufs import parse

EQUAL = (5, 5, 5, 5, 5)


def _policies(options: str, branches: Sequence[OpenBranch], free: Sequence[int]) -> Policies:
    policies = Policies(parse(options).options)
    for branch, amount in zip(branches, free, strict=False):
        policies._free[branch.id] = (time.monotonic(), amount)
    return policies


def _number(branches: Sequence[OpenBranch], chosen: list[OpenBranch]) -> str:
    return f"B{branches.index(chosen[0])}" if chosen else ""


# Options, branches, their free space, and where a new `p/n` goes.
CREATE = [
    # tdp: the parent's top, else the nearest writable branch above it
    ("", ("rw: p/", "rw: p/"), EQUAL, "B0"),
    ("", ("rw:", "rw: p/"), EQUAL, "B1"),
    ("", ("rw:", "rw:", "ro: p/"), EQUAL, "B1"),
    ("", ("rw:", "ro:", "ro: p/"), EQUAL, "B0"),
    ("", ("ro: p/", "rw: p/"), EQUAL, "EROFS"),
    ("", ("rw: p/", "rw: p/"), (1, 9), "B0"),
    # mfs: most free space, of equals the lower; the parent need not be there
    ("create=mfs", ("rw: p/", "rw:", "rw:"), (5, 9, 7), "B1"),
    ("create=mfs", ("rw: p/", "rw:", "rw:"), (9, 5, 7), "B0"),
    ("create=mfs", ("rw: p/", "rw:", "rw:"), EQUAL, "B2"),
    ("create=mfs", ("rw: p/", "ro:", "rw:"), (1, 9, 2), "B2"),
    ("create=mfs", ("ro: p/",), EQUAL, "EROFS"),
    # mfsrr: round robin once the best has too little
    ("create=mfsrr:6", ("rw: p/", "rw:", "rw:"), (9, 5, 7), "B0"),
    ("create=mfsrr:9", ("rw: p/", "rw:", "rw:"), (9, 5, 7), "B0"),
    ("create=mfsrr:10", ("rw: p/", "rw:", "rw:"), (9, 5, 7), "B2"),
    # pmfs: of those that have the parent the most free one, of equals the upper
    ("create=pmfs", ("rw: p/", "rw: p/", "rw:"), (5, 6, 9), "B1"),
    ("create=pmfs", ("rw: p/", "rw: p/", "rw:"), EQUAL, "B0"),
    ("create=pmfs", ("rw: p/", "ro: p/", "rw: p/"), (5, 9, 6), "B2"),
    ("create=pmfs", ("rw:", "rw: p/", "rw:"), (9, 5, 9), "B1"),
    ("create=pmfs", ("rw:", "ro: p/", "ro: p/"), EQUAL, "B0"),
    # pmfsrr: mfsrr once that one has too little
    ("create=pmfsrr:5", ("rw: p/", "rw: p/", "rw:"), (5, 6, 9), "B1"),
    ("create=pmfsrr:7", ("rw: p/", "rw: p/", "rw:"), (5, 6, 9), "B2"),
    ("create=pmfsrr:10", ("rw: p/", "rw: p/", "ro:"), (6, 5, 9), "B1"),
    # tdmfs: the topmost with more than that, down to the parent's tail; none: mfs
    ("create=tdmfs:5", ("rw:", "rw: p/", "rw: p/"), (6, 9, 9), "B0"),
    ("create=tdmfs:6", ("rw:", "rw: p/", "rw: p/"), (6, 9, 9), "B1"),
    ("create=tdmfs:6", ("rw: p/", "ro: p/", "rw: p/"), (6, 9, 9), "B2"),
    ("create=tdmfs:7", ("rw: p/", "rw:", "rw:"), (6, 7, 9), "B2"),
    ("create=tdmfs:7", ("rw: p/", "rw:", "rw:"), (6, 9, 8), "B1"),
    # rr: from the lowest up
    ("create=rr", ("rw: p/", "rw:", "rw:"), EQUAL, "B2"),
    ("create=rr", ("rw: p/", "rw:", "ro:"), EQUAL, "B1"),
    ("create=rr", ("ro: p/", "ro:"), EQUAL, "EROFS"),
]
# The same, where the first choice would be hidden by a mark above it.
LIFTED = [
    ("create=mfs", ("rw: p/.wh.n", "rw: p/"), (1, 9), "B0"),
    ("create=mfs", ("rw: p/.wh.other", "rw: p/"), (1, 9), "B1"),
    ("create=mfs", ("rw: p/.wh..wh..opq", "rw: p/"), (1, 9), "B0"),
    ("create=mfs", ("rw: p/.wh.n", "rw: p/.wh.n", "rw: p/"), (1, 1, 9), "B0"),
    ("create=mfs", ("rw:", "rw: p/", "ro+wh: p/.wh.n", "rw: p/"), (1, 1, 9, 9), "B1"),
    ("create=mfs", ("rw:", "rw: p/", "ro: p/.wh.n", "rw: p/"), (1, 1, 9, 9), "B3"),
    ("create=mfs", ("ro+wh: p/.wh.n", "rw: p/"), (9, 9), "EROFS"),
    ("create=mfs", ("rw:", "ro+ovl: p/.wh.n", "rw: p/"), (1, 1, 9), "B2"),  # AUFS' marks need +wh
    ("create=mfs", ("rw:", "ro+ovl: p/.wh..wh..opq", "rw: p/"), (1, 1, 9), "B2"),
    ("create=mfs", ("rw:", "ro+ovl: p/n!", "rw: p/"), (1, 1, 9), "B0"),
    ("create=mfs", ("rw: p/", "rw: p/.wh.n"), (1, 9), "B1"),  # its own mark hides nothing of it
    ("create=pmfs", ("rw: p/.wh.n", "rw: p/"), (1, 9), "B0"),
    ("create=rr", ("rw: p/.wh.n", "rw: p/"), EQUAL, "B0"),
    ("create=tdmfs:5", ("rw: p/.wh.n", "rw: p/"), (1, 9), "B0"),
    ("create=mfsrr:99", ("rw: p/.wh.n", "rw: p/"), (1, 9), "B0"),
]


@pytest.mark.parametrize(("options", "layout", "free", "wanted"), CREATE + LIFTED)
def test_create_policy_picks_a_branch(
    options: str, layout: Sequence[str], free: Sequence[int], wanted: str, tmp_path: Path
) -> None:
    """One row each."""
    with opened(tmp_path, layout) as branches, layers(branches, "p") as copies:
        policies = _policies(options, branches, free)
        chosen: list[OpenBranch] = []
        failed = outcome(lambda: chosen.append(policies.for_create(branches, copies, b"n")))
        assert failed or _number(branches, chosen) == wanted
        assert failed in ("", wanted)


def test_create_round_robin_takes_each_in_turn(tmp_path: Path) -> None:
    """From the lowest writable branch up and around; a directory takes the turn without ending it."""
    with opened(tmp_path, ("rw: p/", "ro:", "rw:", "rw:")) as branches, layers(branches, "p") as copies:
        policies = _policies("create=rr", branches, EQUAL)
        turns = [
            branches.index(policies.for_create(branches, copies, b"n", directory=directory))
            for directory in (False, True, True, False, False, False, True, False)
        ]
        assert turns == [3, 2, 2, 2, 0, 3, 2, 2]


def test_create_free_space_is_read_again_when_it_is_old(tmp_path: Path) -> None:
    """A reading holds for as many seconds as the option says, none with 0."""
    with opened(tmp_path, ("rw: p/",)) as branches:
        kept, read = (
            _policies(f"create=mfs:{seconds}", branches, (7,)).free_bytes(branches[0])
            for seconds in ("3600", "0")
        )
        assert kept == 7 and read != 7


# Branches, the one that the entry shows on, and where each policy (tdp, bup, bu) copies it.
COPY_UP = [
    (("rw: p/", "rw: p/", "ro: p/n"), 2, "B0 B1 B1"),
    (("rw: p/", "rw:", "ro: p/n"), 2, "B0 B0 B1"),
    (("rw:", "rw: p/", "rw:", "ro: p/n"), 3, "B1 B1 B2"),
    (("rw:", "rw:", "ro: p/n"), 2, "B1 B1 B1"),
    (("rw:", "ro: p/", "rw:", "ro: p/n"), 3, "B2 B0 B2"),
    (("ro: p/", "rw: p/", "ro: p/n"), 2, "B1 B1 B1"),
    (("ro: p/n", "rw: p/"), 0, "EROFS EROFS EROFS"),
    (("ro: p/", "ro: p/n", "rw: p/"), 1, "EROFS EROFS EROFS"),
    (("rw: p/", "rw: p/n"), 1, "B1 B1 B1"),  # writable: it stays
    (("rw: p/", "rw: p/", "ro: p/n", "rw: p/"), 2, "B0 B1 B1"),  # what is below never takes it
    (("ro: p/", "rw:", "ro: p/n"), 2, "B1 EROFS B1"),
]


def _copied_to(policy: str, branches: list[OpenBranch], copies: Layers, source: int) -> str:
    """Return the branch that a policy copies up to, or the errno."""
    policies = _policies(f"cpup={policy}", branches, EQUAL)
    chosen: list[OpenBranch] = []
    failed = outcome(lambda: chosen.append(policies.for_copy_up(branches, copies, branches[source])))
    return failed or _number(branches, chosen)


@pytest.mark.parametrize(("layout", "source", "wanted"), COPY_UP)
def test_copy_up_policy_picks_a_branch(
    layout: Sequence[str], source: int, wanted: str, tmp_path: Path
) -> None:
    """One row each, over the three policies."""
    with opened(tmp_path, layout) as branches, layers(branches, "p") as copies:
        found = [_copied_to(policy, branches, copies, source) for policy in ("tdp", "bup", "bu")]
        assert " ".join(found) == wanted


def test_policies_are_told_of_other_options(tmp_path: Path) -> None:
    """After a remount the new policy decides, with the readings that are still good."""
    with opened(tmp_path, ("rw: p/", "rw: p/")) as branches, layers(branches, "p") as copies:
        policies = _policies("", branches, (1, 9))
        for create, top_first, wanted in (("tdp", True, 0), ("mfs", False, 1), ("tdp", True, 0)):
            policies.set_options(parse(f"create={create}").options)
            assert policies.top_first is top_first
            assert policies.for_create(branches, copies, b"n") is branches[wanted]
