# SPDX-License-Identifier: Apache-2.0
"""The temporary name of a copy-up that old readers follow: what keeps it from being taken away does so for a while only."""

import os
from pathlib import Path

import pytest

from tests.mount.test_passthrough import passing, state
from tests.support.strace import traced
from tests.support.union import Union, Workshop, eventually

pytestmark = pytest.mark.parametrize("union", ["direct"], indirect=True)

OLD = b"old " * 20000
FORMS = pytest.mark.parametrize("form", ["", "udba=none,whiteout=overlay"], ids=["aufs", "overlay"])


def _mount(shop: Workshop, form: str) -> Union:
    top = shop.filesystem("B0")
    u = passing(shop.mount(form, branches={"B0": top, "B1": shop.directory("B1", {"d/f": OLD})}))
    u.allowed_log = ["cannot hide the temporary copy of d/f"]
    return u


def _write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"NEW")


def _links(u: Union) -> int:
    return os.stat(u.branch(0) / "d/f").st_nlink


@FORMS
@pytest.mark.parametrize("error", ["EIO", "EMFILE"])
def test_copy_that_cannot_be_hidden_is_hidden_at_the_release(union: Workshop, form: str, error: str) -> None:
    """The copy-up succeeds; the second link is gone when the last reader has closed the file."""
    u = _mount(union, form)
    with (u / "d/f").open("rb") as reader:
        with traced(u.pid, "unlinkat", f"error={error}") as trace:
            _write(u / "d/f")
        assert trace.was_injected
        assert reader.read(4) == b"NEW "
        assert _links(u) == 2
    eventually(lambda: _links(u) == 1, "the temporary name to go")
    assert (u / "d/f").read_bytes() == (u.branch(0) / "d/f").read_bytes() == b"NEW" + OLD[3:]


@FORMS
def test_copy_that_the_release_cannot_hide_is_hidden_by_a_remount(union: Workshop, form: str) -> None:
    """The release fails as well: the next time that unused names are forgotten the copy's is among them."""
    u = _mount(union, form)
    with (u / "d/f").open("rb") as reader:
        with traced(u.pid, "unlinkat", "error=EIO"):
            _write(u / "d/f")
            reader.close()
            eventually(lambda: state(u)["registered"] == 0, "release")
        assert _links(u) == 2
    assert u.change("warn_perm").returncode == 0
    eventually(lambda: _links(u) == 1, "the temporary name to go")
    assert (u / "d/f").read_bytes() == b"NEW" + OLD[3:]


@FORMS
@pytest.mark.parametrize("which", [1, 2])
def test_copy_that_is_hidden_in_part_keeps_no_space(union: Workshop, form: str, which: int) -> None:
    """Overlayfs does not give the name up, or its whiteout stays: there is one link, and what is removed later is gone.

    If the kernel still held the file when the overlay was told to forget it, then with the next remount.
    """
    u = _mount(union, form)
    (u / "d/other").touch()  # the directory is copied up
    before = os.statvfs(u.branch(0)).f_bfree
    with (u / "d/f").open("rb") as reader:
        with traced(u.pid, "unlinkat", f"error=ENOSPC:when={which}") as trace:
            _write(u / "d/f")
        assert trace.was_injected
        assert reader.read(4) == b"NEW "
        assert _links(u) == 1
    eventually(lambda: state(u)["registered"] == 0, "release")
    (u / "d/f").unlink()

    def is_free() -> bool:
        assert u.change("warn_perm").returncode == 0
        return os.statvfs(u.branch(0)).f_bfree >= before - 4

    eventually(is_free, "the space")
