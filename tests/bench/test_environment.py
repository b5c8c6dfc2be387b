# SPDX-License-Identifier: Apache-2.0
"""What travels with a result: above all what can spoil it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.measuring import environment

CAN_MOUNT = os.geteuid() == 0 and shutil.which("mkfs.ext4") is not None and Path("/dev/loop-control").exists()


@pytest.mark.skipif(not CAN_MOUNT, reason="needs root, e2fsprogs and loop devices")
@pytest.mark.parametrize(("feature", "lacks"), [("has_journal", False), ("^has_journal", True)])
def test_ext4_without_journal_is_told(feature: str, lacks: bool, tmp_path: Path) -> None:
    """Creating files after removing others is slow on such a filesystem: the result says what it was measured on."""
    image, target = tmp_path / "image", tmp_path / "target"
    target.mkdir()
    with image.open("wb") as stream:
        stream.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", feature, image], check=True)
    subprocess.run(["mount", "-t", "ext4", "-o", "loop", image, target], check=True)
    try:
        assert environment.lacks_journal(target) is lacks
        backing = environment.describe(target)["backing"]
        assert backing == ("ext4 without a journal" if lacks else "ext4")
    finally:
        subprocess.run(["umount", target], check=True)
