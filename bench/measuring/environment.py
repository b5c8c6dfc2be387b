# SPDX-License-Identifier: Apache-2.0
"""What the results depend on besides the targets: machine, kernel, backing filesystem, load, versions."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.targets.servers import program_version
from unionfs.kernel import mount_table


def describe(directory: Path) -> dict[str, Any]:
    """Return the environment of a run whose branches are in `directory`, as JSON."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": os.uname().release,
        "architecture": platform.machine(),
        "system": _system(),
        "virtual": _virtual(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": list(os.getloadavg()),
        "busy": "other work runs on this machine" if os.getloadavg()[0] > 1 else "",
        "nice": os.nice(0),
        "backing": _backing(directory),
        "fuse": _fuse(),
        "python": platform.python_version(),
        "fio": program_version(["fio", "--version"]),
        "git": _git(),
    }


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return platform.system()


def _virtual() -> str:
    """Tell machine, virtual machine or container."""
    machine = "virtual machine" if " hypervisor" in _read("/proc/cpuinfo") else "machine"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return f"container on a {machine}"
    return machine


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text()
    return ""


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _backing(directory: Path) -> str:
    mounted = mount_table.containing(os.path.realpath(directory))
    kind = mounted.fstype if mounted else "unknown"
    return f"{kind} without a journal" if lacks_journal(directory) else kind


def lacks_journal(directory: Path) -> bool:
    """Tell whether this is ext4 without a journal: there whoever removes files slows down all who create some, for minutes.

    It must not reuse a freed inode at once, and finds another by passing over each that was freed (recently_deleted in
    fs/ext4/ialloc.c).
    """
    device = directory.stat().st_dev
    name = Path(os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")).name
    return _read(f"/sys/fs/ext4/{name}/journal_task").strip() == "<none>"


def _fuse() -> dict[str, str]:
    """Return the settings of the kernel's FUSE module."""
    found: dict[str, str] = {}
    for directory in ("/sys/module/fuse/parameters", "/proc/sys/fs/fuse"):
        for path in sorted(Path(directory).glob("*")):
            found[path.name] = _read(str(path)).strip()
    return found


def _git() -> str:
    """Return the commit measured, with a + when the tree has changes of its own."""
    root = Path(__file__).parents[2]
    hash_ = _output(root, "rev-parse", "--short=12", "HEAD")
    return f"{hash_}+" if hash_ and _output(root, "status", "--porcelain", "--untracked-files=no") else hash_


def _output(root: Path, *words: str) -> str:
    with contextlib.suppress(OSError):
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""
