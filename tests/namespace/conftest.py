# SPDX-License-Identifier: Apache-2.0
"""Containers for tests, and the promise that each test's containers leave nothing."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.oci.cgroups import layout
from tests.support.box import Box, groups

CAN_RUN = os.geteuid() == 0 and Path("/dev/fuse").exists() and bool(layout.detect().v1 or layout.detect().v2)


@pytest.fixture
def box() -> Iterator[Box]:
    """Give a place to run containers; fail if one of them leaves a mount, a directory or a cgroup."""
    if not CAN_RUN:
        pytest.skip("containers need root, /dev/fuse and cgroups")
    with tempfile.TemporaryDirectory(prefix="box-") as name:
        place = Box(Path(name).resolve())
        place.directory.chmod(0o755)
        try:
            yield place
            left = place.identities()
            assert left == set()
            assert place.states() == set()
            assert [path for identity in left for path in groups(identity)] == []
            assert str(place.directory) not in Path("/proc/self/mountinfo").read_text()
        finally:
            place.close()
