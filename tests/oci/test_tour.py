# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/tour are one sitting in one shell: what a learner pastes works, page after page, and leaves nothing.

The shell has namespaces and control groups of its own, in which names such as /sys/fs/cgroup/cpu/tour are nobody else's.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.groups import Make
from tests.support.oci import PROGRAM, can_run
from tests.support.tour import TOUR, commands
from tests.support.union import program

# 4 and 5 come with images.
PAGES = ["01", "02", "03", *(f"{number:02}" for number in range(6, 15))]
PROGRAMS = {
    "unionfs": "unionfs.cli.main",
    "unionfs-overlay": "unionfs.cli.overlay",
    "unionbox": "runtime.cli",
}
TOOLS = ("bash", "ip", "lsns", "nsenter", "pgrep", "ps", "unshare")
# What a page shows to fail, or ends itself.
FAILING = (
    "mount -t aufs",
    "unionfs which mnt/bb.log",
    "uname -r; grep ^ID= /etc/os-release",
    "grep -c unionfs /proc/mounts",
    "kill %1 %2; wait",
    "ls /root/who; head",
    "kill -KILL $!; wait $!",
    "kill $P; wait $P",
    "for i in 1 2 3 4 5 6",
    "exec timeout 2",
    "unionrt run dev",
)
# A group stays busy for an instant after the end of its last process; on a busy machine that is longer than a learner types.
PATIENT_RMDIR = """rmdir() { for group; do
    for try in $(seq 100); do command rmdir $group && continue 2; sleep 0.05; done 2>/dev/null; return 1
done; }
"""


def script(pages: list[Path], place: Path) -> tuple[str, list[str]]:
    """Return a shell script that notes each command's status on descriptor 9, and the commands."""
    found = [command for page in pages for command in commands(page.read_text())]
    parts = [command.replace("/tmp/tour", str(place)) + "\necho $? >&9" for command in found]
    return "\n".join(parts), found


def cgroup_mounts() -> list[tuple[str, str, str]]:
    """Return type, options and place of each hierarchy's mount."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    general = {"rw", "ro", "nosuid", "nodev", "noexec", "relatime", "noatime"}
    return [
        (kind, ",".join(word for word in options.split(",") if word not in general), place)
        for _, place, kind, options, *_ in lines
        if kind in ("cgroup", "cgroup2") and place.startswith("/sys/fs/cgroup")
    ]


def test_commands_of_a_page_are_told_from_what_they_print() -> None:
    """Prompts, continued lines, heredocs."""
    page = (
        "```console\n$ a \\\n    b\nprinted\n$ for x in 1; do\n>   c\n> done\n$ d <<'EOF'\n$ e\nEOF\nf\n```\n"
    )
    assert list(commands(page)) == ["a \\\n    b", "for x in 1; do\n   c\n done", "d <<'EOF'\n$ e\nEOF"]


@pytest.mark.skipif(not can_run() or not Path("/bin/busybox").exists(), reason="needs root and busybox")
@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason="a tool of the pages is not installed")
@pytest.mark.skipif(not Path("/sys/fs/cgroup/cpu/tasks").exists(), reason="the pages show cgroup v1")
def test_pages_can_be_pasted_in_one_sitting(tmp_path: Path, make_group: Make) -> None:
    """Every command succeeds but those that are there to fail; no mount, no container and no group is left."""
    pages = sorted(TOUR.glob("[0-9]*.md"))
    assert [page.name[:2] for page in pages] == PAGES
    text, pasted = script(pages, tmp_path / "sitting/tour")
    (tmp_path / "pages").write_text(
        PATIENT_RMDIR
        + text
        + '\ntest -z "$(unionrt list --quiet)$(grep "sitting.* fuse" /proc/mounts)"; echo $? >&9\n'
    )
    # Not below the pages' own directory, of which the container's root is a union.
    (tmp_path / "unionrt").symlink_to(PROGRAM)
    for name, module in PROGRAMS.items():
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {shlex.join(program(name, module))} "$@"\n')
        (tmp_path / name).chmod(0o755)
    group = make_group({"devices": [{"allow": True, "access": "rwm"}]})  # /dev/fuse too
    os.makedirs("/run/unionrt", exist_ok=True)
    lines = [
        *(
            f"umount {place}; mount -t {kind} {f'-o {options}' if options else ''} cgroup {place}"
            for kind, options, place in cgroup_mounts()
        ),
        "mount -t tmpfs -o mode=700 tmpfs /run/unionrt",
        # A filesystem that the kernel's overlayfs takes for an upper directory, wherever the tests run.
        f"mkdir {tmp_path}/sitting; mount -t tmpfs tmpfs {tmp_path}/sitting",
        f"PATH={tmp_path}:$PATH exec bash --norc {tmp_path}/pages 9>{tmp_path}/statuses",
    ]
    (tmp_path / "inside").write_text("set -e\n" + "\n".join(lines))
    join = "".join(f"echo 0 > {directory}/cgroup.procs && " for directory in group.directories())
    unshare = "unshare --mount --cgroup --pid --fork --kill-child --mount-proc"
    with (tmp_path / "output").open("w") as output:
        done = subprocess.run(
            ["sh", "-c", f"{join} exec {unshare} sh {tmp_path}/inside"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=300,
        )
    printed = (tmp_path / "output").read_text()
    assert done.returncode == 0, printed
    statuses = [int(line) for line in (tmp_path / "statuses").read_text().split()]
    assert len(statuses) == len(pasted) + 1, printed
    failed = [
        f"{command}\nreturned {status}"
        for command, status in zip([*pasted, "what is left"], statuses, strict=True)
        if status and not any(words in command for words in FAILING)
    ]
    assert not failed, "\n".join([*failed, printed])
    left = [path for directory in group.directories() for path in os.scandir(directory) if path.is_dir()]
    assert [path.path for path in left] == []
