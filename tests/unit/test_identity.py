# SPDX-License-Identifier: Apache-2.0
"""Files of branch filesystems are told apart, and their numbers are those that docs/decisions/inode-numbers.md tells of."""

from dataclasses import replace
from pathlib import Path

import pytest

from unionfs.branches.branch import Branch, OpenBranch, open_branch
from unionfs.branches.identity import Identities, filesystem_of, number_of

_LONG = 0x1234_5678_9ABC_DEF0  # an inode number as those of network and stacked filesystems


@pytest.fixture
def branch(tmp_path: Path) -> OpenBranch:
    """Return a branch to be varied: nothing is looked up in it."""
    opened = open_branch(Branch(str(tmp_path), "ro"), index=1, id=1)
    opened.close()
    return opened


def test_number_is_the_identity_wherever_it_can_be(branch: OpenBranch) -> None:
    """A node then has one object for both; the number is 15 bits of filesystem and 45 of inode."""
    for ino in (1, 4242, (1 << 45) - 1):
        identity = Identities([branch]).of_inode(branch.device, ino)
        assert number_of(identity) is identity
        assert identity == branch.number_prefix << 45 | ino


def test_long_inode_numbers_are_folded_but_told_apart(branch: OpenBranch) -> None:
    """Two of 524,288 such files share a number; they never share an identity."""
    identities = Identities([branch])
    identity = identities.of_inode(branch.device, _LONG)
    folded = (_LONG ^ (_LONG >> 45) * 0x9E3779B97F4B) & (1 << 45) - 1
    assert number_of(identity) == branch.number_prefix << 45 | folded
    short = identities.of_inode(branch.device, folded)
    assert number_of(short) == number_of(identity)
    assert short != identity
    assert filesystem_of(short) == filesystem_of(identity)


def test_filesystems_of_one_prefix_are_told_apart(branch: OpenBranch) -> None:
    """Copies of one disk image have one f_fsid: equal numbers, which the union then takes care of, and two identities."""
    copy = replace(branch, device=branch.device + 1)
    identities = Identities([branch, copy])
    for ino in (7, _LONG):
        first, second = (identities.of_inode(device, ino) for device in (branch.device, copy.device))
        assert first != second
        assert number_of(first) == number_of(second)
        assert filesystem_of(first) != filesystem_of(second)
    before = identities.of_inode(copy.device, 7)
    identities.add_branches([branch, copy])
    assert identities.of_inode(copy.device, 7) == before


def test_filesystem_inside_a_branch_has_numbers_of_its_own(branch: OpenBranch) -> None:
    """A subvolume has a device number that no branch has."""
    identities = Identities([branch])
    inside = identities.of_inode(branch.device + 1, 7)
    assert inside == identities.of_inode(branch.device + 1, 7) != identities.of_inode(branch.device, 7)
    assert 0 < number_of(inside) >> 45 < 1 << 15
