# SPDX-License-Identifier: Apache-2.0
"""The filesystem below the branches: the directory as it is, or a fresh one on tmpfs or on a loop device.

The mounts are in our private namespace, and the loop device frees itself at the unmount: nothing is left behind.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unionfs.errors import UserError

BACKINGS = {"tmpfs": "", "ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}
_ROOM = 512 << 20  # xfs wants 300 MiB, journals take some
_SMALLEST_FILE = 512  # what an empty file counts in a plan's size; half of it is its inode on ext4
_OPTIONS = {"ext4": ",noinit_itable"}  # nobody clears tables of inodes while we measure


@contextmanager
def mounted(kind: str, room: Path, size: int) -> Iterator[Path]:
    """Yield the directory for layers and branches: `room` itself, or `size` bytes of the filesystem `kind`."""
    if not kind:
        yield room
        return
    target = room / "backing"
    target.mkdir()
    size += _ROOM
    if kind == "tmpfs":
        _run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=0", "tmpfs", str(target))
    else:
        _make_image(kind, room / "image", size)
        _run("mount", "-t", kind, "-o", f"loop{_OPTIONS.get(kind, '')}", str(room / "image"), str(target))
    try:
        yield target
    finally:
        subprocess.run(["umount", target], capture_output=True)


def _make_image(kind: str, image: Path, size: int) -> None:
    program = f"mkfs.{kind}"
    if shutil.which(program) is None:
        raise UserError(f"--backing {kind} needs {program}", f"apt-get install {BACKINGS[kind]}", status=2)
    inodes = (
        size // _SMALLEST_FILE
    )  # mkfs.ext4 would make one for 16 KiB, and a suite has a million empty files
    options = ["-N", str(inodes), "-E", "lazy_itable_init=1"] if kind == "ext4" else []
    free = shutil.disk_usage(image.parent).free
    if free < size:
        raise UserError(
            f"{image.parent}: {size >> 20} MiB are needed, {free >> 20} MiB are free", "use --directory"
        )
    with image.open("wb") as stream:
        stream.truncate(size + inodes * _SMALLEST_FILE // 2)
    _run(program, "-q", *options, str(image))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}".replace("\n", " "))
