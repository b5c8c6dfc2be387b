# SPDX-License-Identifier: Apache-2.0
"""The image that containers are started from: a few programs of this machine with their libraries, and a file to read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from bench.machine.layers import Layers, pattern
from unionfs.errors import UserError

MARKER = "etc/unionbench"
DATA = "data"
DATA_SIZE = 8 << 20
_PROGRAMS = ("sh", "true", "date", "sleep", "cat", "readlink", "touch")
_DIRECTORIES = ("proc", "sys", "dev", "tmp", "run", "root")
_SEED = 7


def build_rootfs(layers: Layers) -> None:
    """Make the image: 3 MiB of programs, which run as if on this machine, and DATA_SIZE bytes of data."""
    for directory in _DIRECTORIES:
        layers.path(f"{directory}/x").parent.chmod(0o755)
    for name in _PROGRAMS:
        _copy_program(layers, name)
    layers.write("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    layers.write("etc/group", b"root:x:0:\n")
    layers.write(MARKER, pattern(_SEED, 64))
    layers.write_big(DATA, DATA_SIZE)


def marker() -> bytes:
    """Return what the image's MARKER holds."""
    return pattern(_SEED, 64)


def _copy_program(layers: Layers, name: str) -> None:
    found = shutil.which(name)
    if found is None:
        raise UserError(f"the image needs {name}", "apt-get install coreutils dash", status=2)
    _copy(layers, found, f"bin/{name}")
    for library in _libraries(found):
        _copy(layers, library, library.lstrip("/"))


def _copy(layers: Layers, source: str, name: str) -> None:
    target = layers.path(name)
    if not target.exists():
        shutil.copyfile(source, target)
        target.chmod(0o755)


def _libraries(program: str) -> list[str]:
    """Return the libraries and the loader of a program by the paths it asks for; none for a static one."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return [path for path in re.findall(r"(/\S+) \(0x", said) if Path(path).is_file()]
