# SPDX-License-Identifier: Apache-2.0
"""What a removal leaves on the branches (docs/aufs.md §3.2): tables over a union that nobody mounts."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.core import outcome, state, union, walk_to

ALL = ("udba=reval", "udba=none")
OVERLAY = ("udba=reval,whiteout=overlay", "udba=none,whiteout=overlay")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="overlayfs' form needs root")

# Branches, the path, and what is on B0 afterwards, or the errno.
UNLINK = [
    (("rw: n",), "n", ""),
    (("rw: n", "ro:"), "n", ""),
    (("rw: n", "ro: n"), "n", ".wh.n"),
    (("rw: n", "ro: n/"), "n", ".wh.n"),  # whatever it is that would show
    (("rw:", "ro: n"), "n", ".wh.n"),
    (("rw: n", "ro+wh: .wh.n", "ro: n"), "n", ""),
    (("rw: n", "ro: .wh.n", "ro: n"), "n", ".wh.n"),
    (("rw: d/n", "ro: d/n"), "d/n", "d/ d/.wh.n"),
    (("rw: d/n d/.wh..wh..opq", "ro: d/n"), "d/n", "d/ d/.wh..wh..opq"),
    (("rw:", "ro: d/n"), "d/n", "d/ d/.wh.n"),
    (("rw: n .wh.n", "ro: n"), "n", ".wh.n"),
    (("rw: m", "rw: n", "ro:"), "n", "m"),  # where it is: nothing above
    (("rw:",), "n", "ENOENT"),
    (("rw: .wh.n", "ro: n"), "n", "ENOENT"),
    (("rw: n/",), "n", "EISDIR"),
    (("ro: n", "ro: n"), "n", "EROFS"),
    (("rw:", "ro: n"), ".wh.n", "EPERM"),
]
RMDIR = [
    (("rw: n/",), "n", ""),
    (("rw: n/", "ro: n/"), "n", ".wh.n"),
    (("rw: n/", "ro: n"), "n", ".wh.n"),
    (("rw:", "ro: n/"), "n", ".wh.n"),
    (("rw: n/.wh.f", "ro: n/f"), "n", ".wh.n"),
    (("rw: n/.wh.f n/.wh..wh..opq", "ro:"), "n", ""),
    (("rw: n/", "ro+wh: .wh.n", "ro: n/f"), "n", ""),
    (("rw: n/.wh..wh..opq", "ro: n/f"), "n", ".wh.n"),
    (("rw: n/f",), "n", "ENOTEMPTY"),
    (("rw: n/", "ro: n/f"), "n", "ENOTEMPTY"),
    (("rw: n/.wh.g", "ro: n/f"), "n", "ENOTEMPTY"),
    (("rw:", "ro: n/f"), "n", "ENOTEMPTY"),
    (("rw: n",), "n", "ENOTDIR"),
    (("rw:",), "n", "ENOENT"),
    (("ro: n/",), "n", "EROFS"),
]
IN_OVERLAY_FORM = [
    (("rw: n",), "n", ""),
    (("rw: n", "ro+ovl: n"), "n", "n!"),
    (("rw:", "ro+ovl: n"), "n", "n!"),
    (("rw: n", "ro+ovl: n!", "ro: n"), "n", ""),
]
DIRECTORIES_IN_OVERLAY_FORM = [
    (("rw: n/",), "n", ""),
    (("rw: n/", "ro+ovl: n/"), "n", "n!"),
    (("rw: n/f!", "ro+ovl: n/f"), "n", "n!"),
    (("rw: n/", "ro+ovl: n/f"), "n", "ENOTEMPTY"),
]


def _check(operation: str, layout: Sequence[str], path: str, wanted: str, options: str, root: Path) -> None:
    with union(root, layout, options) as filesystem:
        branches = [root / f"B{at}" for at in range(len(layout))]
        before = [state(branch) for branch in branches]
        parent, name = walk_to(filesystem, path)
        failed = outcome(lambda: getattr(filesystem, operation)(parent, name))
        assert failed == (wanted if wanted.startswith("E") else "")
        if not failed:
            assert outcome(lambda: filesystem.lookup(parent, name)) == "ENOENT"
    after = [state(branch) for branch in branches]
    if failed:
        assert after == before
    else:
        assert after[0] == set(wanted.split())
        assert all(layout[at].startswith("rw") for at in range(len(layout)) if before[at] != after[at])
        assert sum(was != now for was, now in zip(before, after, strict=True)) <= 1


@pytest.mark.parametrize("options", ALL)
@pytest.mark.parametrize(("layout", "path", "wanted"), UNLINK)
def test_unlink_whites_out_what_would_show(
    layout: Sequence[str], path: str, wanted: str, options: str, tmp_path: Path
) -> None:
    """A whiteout is made where it is needed and nowhere else; a removal that fails changes nothing."""
    _check("unlink", layout, path, wanted, options, tmp_path)


@pytest.mark.parametrize("options", ALL)
@pytest.mark.parametrize(("layout", "path", "wanted"), RMDIR)
def test_rmdir_whites_out_what_would_show(
    layout: Sequence[str], path: str, wanted: str, options: str, tmp_path: Path
) -> None:
    """The same of directories, which go if they are empty in the union."""
    _check("rmdir", layout, path, wanted, options, tmp_path)


@needs_root
@pytest.mark.parametrize("options", OVERLAY)
@pytest.mark.parametrize(("layout", "path", "wanted"), IN_OVERLAY_FORM)
def test_unlink_in_overlay_form_leaves_a_device(
    layout: Sequence[str], path: str, wanted: str, options: str, tmp_path: Path
) -> None:
    """The device takes the name itself."""
    _check("unlink", layout, path, wanted, options, tmp_path)


@needs_root
@pytest.mark.parametrize("options", OVERLAY)
@pytest.mark.parametrize(("layout", "path", "wanted"), DIRECTORIES_IN_OVERLAY_FORM)
def test_rmdir_in_overlay_form_leaves_a_device(
    layout: Sequence[str], path: str, wanted: str, options: str, tmp_path: Path
) -> None:
    """The same of directories."""
    _check("rmdir", layout, path, wanted, options, tmp_path)
