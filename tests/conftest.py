# SPDX-License-Identifier: Apache-2.0
"""Put the test process into a mount namespace of its own, so that a killed run leaves no mount, and provide unions."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import syscalls, tree
from tests.support.union import SESSIONS, Workshop

CAN_MOUNT = os.geteuid() == 0 and Path("/dev/fuse").exists()


def pytest_configure(config: pytest.Config) -> None:
    """Leave the host's mount namespace before the first test; servers and helpers inherit the private one."""
    if os.geteuid() == 0:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    os.umask(0o022)


@pytest.fixture(params=SESSIONS)
def union(request: pytest.FixtureRequest) -> Iterator[Workshop]:
    """Give a workshop that mounts unions, with each session in turn; fail the test if one of them ends badly."""
    if not CAN_MOUNT:
        pytest.skip("mounting needs root and /dev/fuse")
    # Not tmp_path: tests that act as another user must get there.
    root = Path(tempfile.mkdtemp(prefix="unionfs-test-"))
    root.chmod(0o755)
    shop = Workshop(root, request.param)
    try:
        yield shop
    finally:
        try:
            shop.close()
        finally:
            tree.remove_tree(root)
