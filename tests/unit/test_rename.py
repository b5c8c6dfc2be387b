# SPDX-License-Identifier: Apache-2.0
"""Where a rename happens, what it leaves and what it refuses (docs/aufs.md §3.2): tables over a union that nobody mounts."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.core import outcome, state, union, walk_to
from unionfs.kernel import syscalls

ALL = ("udba=reval", "udba=none")
OVERLAY = ("udba=reval,whiteout=overlay", "udba=none,whiteout=overlay")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="overlayfs' form needs root")

# Branches, and what each of them has after n was renamed to m, or the errno. `m=B1/n` is what B1/n held.
FILES = [
    (("rw: n",), ["m=B0/n"]),
    (("rw: n", "ro: n"), ["m=B0/n .wh.n", "n"]),
    (("rw:", "ro: n"), ["m=B1/n .wh.n", "n"]),
    (("rw: n", "ro: m"), ["m=B0/n", "m"]),
    (("rw: n .wh.m", "ro: m"), ["m=B0/n", "m"]),
    (("rw: n m", "ro:"), ["m=B0/n", ""]),
    (("rw: n m", "ro: n m"), ["m=B0/n .wh.n", "n m"]),
    (("rw:", "ro: n m"), ["m=B1/n .wh.n", "n m"]),
    (("rw: n", "ro+wh: .wh.n", "ro: n"), ["m=B0/n", ".wh.n", "n"]),
    (("rw:", "rw: n"), ["", "m=B1/n"]),  # on the branch of the source
    (("rw: m", "rw: n"), ["m=B1/n .wh.n", "n"]),  # or of the target that is higher
    (("rw:", "rw: n m"), ["", "m=B1/n"]),
    (("rw: .wh.m", "rw: n"), ["m=B1/n .wh.n", "n"]),  # or where a whiteout would hide it
    (("rw: n", "rw: m"), ["m=B0/n", "m"]),
    (("rw: n m/",), "EISDIR"),
    (("rw: m",), "ENOENT"),
    (("rw: .wh.n", "ro: n"), "ENOENT"),
    (("ro: n",), "EROFS"),
    (("ro:", "rw: n"), ["", "m=B1/n"]),
    (("ro: m", "rw: n"), "EROFS"),
]
DIRECTORIES = [
    (("rw: n/",), ["m/"]),
    (("rw: n/f",), ["m/ m/f=B0/n/f"]),
    (("rw: n/f", "ro: n/"), ["m/ m/f=B0/n/f .wh.n", "n/"]),
    (("rw: n/f", "ro: n/g"), "EXDEV"),
    (("rw: n/f", "ro: n/f"), "EXDEV"),
    (("rw: n/.wh.g", "ro: n/g"), ["m/ m/.wh.g .wh.n", "n/ n/g"]),
    (("rw: n/.wh.g", "ro: n/g n/h"), "EXDEV"),
    (("rw: n/.wh..wh..opq n/f", "ro: n/g"), ["m/ m/f=B0/n/f m/.wh..wh..opq .wh.n", "n/ n/g"]),
    (("rw:", "ro: n/"), ["m/ .wh.n", "n/"]),
    (("rw:", "ro: n/g"), "EXDEV"),
    (("rw: n/", "ro: m/g"), "ENOTEMPTY"),
    (("rw: n/ m/",), ["m/"]),
    (("rw: n/ m",), "ENOTDIR"),
    (("rw: n/ m/f",), "ENOTEMPTY"),
    (("rw: n/ .wh.m", "ro: m/g"), ["m/ m/.wh..wh..opq", "m/ m/g"]),  # it must not show what was hidden
    (("rw: n/ .wh.m", "ro:"), ["m/ m/.wh..wh..opq", ""]),
    (("rw: n/ m/.wh.g", "ro: m/g"), ["m/ m/.wh..wh..opq", "m/ m/g"]),
    (("rw: n/ m/.wh..wh..opq", "ro:"), ["m/ m/.wh..wh..opq", ""]),
    (("rw: n/", "ro: m/"), ["m/ m/.wh..wh..opq", "m/"]),
]
IN_OVERLAY_FORM = [
    (("rw: n",), ["m=B0/n"]),
    (("rw: n", "ro+ovl: n"), ["m=B0/n n!", "n"]),
    (("rw:", "ro+ovl: n"), ["m=B1/n n!", "n"]),
    (("rw: n m!", "ro+ovl: m"), ["m=B0/n", "m"]),
    (("rw: n/", "ro+ovl:"), ["m/", ""]),
    (("rw: n/", "ro+ovl: n/"), "EXDEV"),  # overlayfs refuses whatever has a lower copy
    (("rw:", "ro+ovl: n/"), "EXDEV"),
    (("rw: n/ m!", "ro+ovl: m/g"), ["m/", "m/ m/g"]),
]


def _check(layout: Sequence[str], wanted: Sequence[str] | str, options: str, root: Path) -> None:
    with union(root, layout, options) as filesystem:
        branches = [root / f"B{at}" for at in range(len(layout))]
        before = [state(branch) for branch in branches]
        top = filesystem.node(1)
        failed = outcome(lambda: filesystem.rename(top, b"n", top, b"m"))
        assert failed == (wanted if isinstance(wanted, str) else "")
        if not failed:
            assert outcome(lambda: filesystem.lookup(top, b"n")) == "ENOENT"
            assert outcome(lambda: filesystem.lookup(top, b"m")) == ""
    after = [state(branch) for branch in branches]
    assert after == (before if failed else [set(words.split()) for words in wanted])


@pytest.mark.parametrize("options", ALL)
@pytest.mark.parametrize(("layout", "wanted"), FILES + DIRECTORIES)
def test_rename_leaves_each_branch_as_the_table_says(
    layout: Sequence[str], wanted: Sequence[str] | str, options: str, tmp_path: Path
) -> None:
    """One row each; what is refused changes nothing."""
    _check(layout, wanted, options, tmp_path)


@needs_root
@pytest.mark.parametrize("options", OVERLAY)
@pytest.mark.parametrize(("layout", "wanted"), IN_OVERLAY_FORM)
def test_rename_in_overlay_form_leaves_each_branch_as_the_table_says(
    layout: Sequence[str], wanted: Sequence[str] | str, options: str, tmp_path: Path
) -> None:
    """The same with devices, and overlayfs' answer for directories."""
    _check(layout, wanted, options, tmp_path)


@needs_root
def test_rename_of_directory_over_device_is_opaque(tmp_path: Path) -> None:
    """What the device hid stays hidden below the directory that took its name."""
    with union(tmp_path, ("rw: n/ m!", "ro+ovl: m/g"), "whiteout=overlay") as filesystem:
        top = filesystem.node(1)
        filesystem.rename(top, b"n", top, b"m")
        assert outcome(lambda: filesystem.lookup(*walk_to(filesystem, "m/g"))) == "ENOENT"


# Branches, flags, and what each branch has, or the errno.
FLAGS = [
    (("rw: n",), syscalls.RENAME_NOREPLACE, ["m=B0/n"]),
    (("rw: n m",), syscalls.RENAME_NOREPLACE, "EEXIST"),
    (("rw: n", "ro: m"), syscalls.RENAME_NOREPLACE, "EEXIST"),
    (("rw: n .wh.m", "ro: m"), syscalls.RENAME_NOREPLACE, ["m=B0/n", "m"]),
    (("rw: n m",), syscalls.RENAME_EXCHANGE, ["m=B0/n n=B0/m"]),
    (("rw: n", "ro: m"), syscalls.RENAME_EXCHANGE, ["m=B0/n n=B1/m", "m"]),
    (("rw: n/f m/",), syscalls.RENAME_EXCHANGE, ["m/ m/f=B0/n/f n/"]),
    (("rw: n/ m/", "ro: n/f"), syscalls.RENAME_EXCHANGE, "EXDEV"),
    (("rw: n",), syscalls.RENAME_EXCHANGE, "ENOENT"),
    (("rw: n",), syscalls.RENAME_WHITEOUT, "EINVAL"),
]


@pytest.mark.parametrize(("layout", "flags", "wanted"), FLAGS)
def test_rename_with_flags_does_as_the_table_says(
    layout: Sequence[str], flags: int, wanted: Sequence[str] | str, tmp_path: Path
) -> None:
    """renameat2(2)'s flags."""
    with union(tmp_path, layout) as filesystem:
        branches = [tmp_path / f"B{at}" for at in range(len(layout))]
        before = [state(branch) for branch in branches]
        top = filesystem.node(1)
        failed = outcome(lambda: filesystem.rename(top, b"n", top, b"m", flags))
        assert failed == (wanted if isinstance(wanted, str) else "")
    after = [state(branch) for branch in branches]
    assert after == (before if failed else [set(words.split()) for words in wanted])
