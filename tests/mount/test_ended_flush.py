# SPDX-License-Identifier: Apache-2.0
"""A signal ends the search for the other names of hard links, and no name is lost by that."""

import os
import signal
from pathlib import Path

import pytest

from tests.support import syscalls
from tests.support.stuck import StuckLayers, wait_for_pending
from tests.support.tree import Tree
from tests.support.union import DEADLINE, SESSIONS, Workshop, eventually, is_mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.mark.parametrize("session", SESSIONS)
def test_flush_at_umount_on_sigterm_ends_and_the_next_mount_takes_over(tmp_path: Path, session: str) -> None:
    """The server of a mount that is gone exits 0 when it is asked to, and says what it left; the next mount has one file."""
    tmp_path.chmod(0o755)
    workshop = Workshop(tmp_path, session)
    below = Workshop(tmp_path / "below")
    layers = StuckLayers(below, tmp_path / "B1")
    try:
        trees: dict[str, Tree | Path] = {"B0": {}, "B1": layers.path, "B2": layers.below}
        union = workshop.mount(branches=trees)
        union.allowed_log.append("pseudo-links are not flushed, as a signal came")
        (union / "a").write_bytes(b"new\n")
        layers.stop()
        eventually(lambda: _unmounted(union.mnt), "umount")
        layers.wait_for_walker()
        wait_for_pending(union.pid, signal.SIGTERM, lambda: os.kill(union.pid, signal.SIGTERM))
        layers.go_on()
        assert union.process is not None and union.process.wait(DEADLINE) == 0
        union.stop()
        assert "pseudo-links are not flushed" in union.log.read_text()
        assert not (union.branch(0) / "b").exists()
        union.start()
        assert (union / "b").read_bytes() == b"new\n"
        union.stop()
        assert (union.branch(0) / "a").samefile(union.branch(0) / "b")
    finally:
        layers.go_on()
        workshop.close()
        below.close()


def _unmounted(path: Path) -> bool:
    if is_mounted(path):
        try:
            syscalls.umount2(str(path))
        except OSError:
            return False
    return True
