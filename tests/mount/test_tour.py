# SPDX-License-Identifier: Apache-2.0
"""The pages docs/tour/01–03, 06 and the first half of 08: pasted one after the other, they print what they show."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CAN_MOUNT
from tests.support.tour import TOUR, examples
from tests.support.union import program

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs root and /dev/fuse")

# What differs from run to run and from machine to machine: mounts, processes, inodes, dates, counters, the session.
VARYING = (
    (r"(?<![0-9a-f])[0-9a-f]{16}\b", "ID"),
    (r"pid \d+", "pid N"),
    (r"(?m)^\d+ (?=-r)", "N "),
    (r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d", "DATE"),
    (r"(?m)^(nodes|handles|descriptors|plinks|copy_ups) +\d+$", r"\1 N"),
    (r"(?m)^(session|data) .*\n", ""),
)
# The words are mount(8)'s own.
ABSENT = "mount -t aufs"


def pages() -> list[tuple[str, str]]:
    """Return the commands with what is shown below them; those of unionbox are tested with it."""
    texts = {page.name[:2]: page.read_text() for page in sorted(TOUR.glob("*.md"))}
    texts["08"] = texts["08"].partition("## With containers")[0]
    numbers = ["01", "02", "03", "06", "08"]
    if "overlay" not in Path("/proc/filesystems").read_text():
        numbers.remove("06")  # it begins with the kernel's own
    return [example for number in numbers for example in examples(texts[number])]


def plain(text: str) -> str:
    """Return what a command printed without what varies."""
    for pattern, replacement in VARYING:
        text = re.sub(pattern, replacement, text)
    return text


def test_pages_print_what_they_show(tmp_path: Path) -> None:
    """Command by command; on a tmpfs, so that the kernel's overlayfs can have its upper directory there."""
    place, outputs, programs = tmp_path / "tour", tmp_path / "outputs", tmp_path / "bin"
    for directory in (place, outputs, programs):
        directory.mkdir()
    for name, module in (("unionfs", "unionfs.cli.main"), ("unionfs-overlay", "unionfs.cli.overlay")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(program(name, module))} "$@"\n')
        (programs / name).chmod(0o755)
    found = pages()
    lines = [f"mount -t tmpfs tmpfs {place}; cd {place}; PATH={programs}:$PATH"]
    for number, (command, _) in enumerate(found):
        lines += [f"exec >{outputs}/{number} 2>&1", command.replace("/tmp/tour", str(place))]
    (tmp_path / "script").write_text("\n".join(lines) + "\n")
    unshare = "unshare --mount --pid --fork --kill-child --mount-proc bash --norc"
    subprocess.run(
        [*unshare.split(), str(tmp_path / "script")], stdin=subprocess.DEVNULL, timeout=100, check=True
    )
    for number, (command, shown) in enumerate(found):
        printed = (outputs / str(number)).read_text().replace(str(place), "/tmp/tour")
        if not command.startswith(ABSENT):
            assert plain(printed) == plain(shown), command
