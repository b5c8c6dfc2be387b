# SPDX-License-Identifier: Apache-2.0
"""Put the test process into a mount namespace of its own, so that a killed run leaves no mount, and provide unions."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import syscalls, tree
from tests.support.union import Workshop

CAN_MOUNT = os.geteuid() == 0 and Path("/dev/fuse").exists()


def pytest_configure(config: pytest.Config) -> None:
    """Leave the host's mount namespace before the first test; servers and helpers inherit the private one."""
    if os.geteuid() == 0:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    os.umask(0o022)


@pytest.fixture
def union(tmp_path: Path) -> Iterator[Workshop]:
    """Give a workshop that mounts unions, and fail the test if one of them ends badly."""
    if not CAN_MOUNT:
        pytest.skip("mounting needs root and /dev/fuse")
    # Branch roots of mode 0755, as every branch of a real union.
    tmp_path.chmod(0o755)
    shop = Workshop(tmp_path)
    try:
        yield shop
    finally:
        shop.close()
        tree.remove_tree(tmp_path)
        tmp_path.mkdir()
