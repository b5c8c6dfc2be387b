# SPDX-License-Identifier: Apache-2.0
"""Foreign roots: what lies in a container's root must not lead our processes astray."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.box import Box


def _root(box: Box) -> Path:
    path = box.directory / "root"
    path.mkdir()
    return path


@pytest.mark.parametrize("target", ["proc", "sys", "dev", "dev/pts"])
def test_symlinked_mount_target_is_refused(box: Box, target: str) -> None:
    """A root whose /proc, /sys or /dev is a link does not redirect the mount (CVE-2019-19921): the container does not start."""
    root = _root(box)
    if "/" in target:
        # /dev is covered by a new tmpfs, so that a link in the root's own /dev has no effect.
        (root / "dev").mkdir()
        (root / target).symlink_to("/etc")
        done = box.run("--rootfs", f"{root}:/", "--", "ls", "-d", "/etc/ptmx")
        assert done.returncode == 2
        return
    (root / target).symlink_to("/etc")
    done = box.run("--rootfs", f"{root}:/", "--", "true")
    assert done.returncode == 125
    assert f"on /{target}: " in done.stderr


def test_module_planted_in_the_root_is_never_loaded(box: Box) -> None:
    """Python files in every directory our interpreter would search leave no trace (the Python twin of CVE-2019-14271)."""
    root = _root(box)
    trap = "open('/trapped', 'w').write(__name__)\n"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for directory in (
        f"usr/lib/{version}",
        f"usr/lib/{version}/encodings",
        "work",
        ".",
        os.getcwd().lstrip("/"),
    ):
        (root / directory).mkdir(parents=True, exist_ok=True)
        for name in ("warnings", "traceback", "linecache", "pwd", "grp", "idna", "array", "_strptime"):
            (root / directory / f"{name}.py").write_text(trap)
    branch = box.branch()
    for arguments in (
        ["-u", "nobody", "--", "true"],
        ["--", "/nothing"],
        ["--hostname", "x", "--", "/bin/true"],
    ):
        box.run("--rootfs", f"{root}:/", "--rw", str(branch), *arguments)
    assert not (branch / "trapped").exists()


def test_foreign_passwd_is_read_with_care(box: Box) -> None:
    """A fifo, a huge or a broken /etc/passwd neither blocks nor crashes: the user is unknown."""
    root = _root(box)
    (root / "etc").mkdir()
    os.mkfifo(root / "etc/passwd")
    done = box.run("--rootfs", f"{root}:/", "-u", "daemon", "--", "true")
    assert (done.returncode, "no user 'daemon'" in done.stderr) == (125, True)
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").write_bytes(
        b"\xff\xfe:x\n::::::\nweird:x:notanumber:0::/:/\nok:x:77:78::/home/ok:/bin/sh\n"
    )
    assert box.run("--rootfs", f"{root}:/", "-u", "ok", "--", "id", "-u").stdout == "77\n"


def test_working_directory_outside_is_refused(box: Box) -> None:
    """A link to nowhere is no working directory; one with .. is refused at once."""
    assert box.run("-w", "/../etc", "--", "true").returncode == 125
    root = _root(box)
    (root / "link").symlink_to("/proc/self/fd/99")
    done = box.run("--rootfs", f"{root}:/", "-w", "/link", "--", "pwd")
    assert done.returncode in (125, 126)
    assert done.stdout == ""
