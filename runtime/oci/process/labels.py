# SPDX-License-Identifier: Apache-2.0
"""Labels that a security module gives the program at its exec: an AppArmor profile or a SELinux context."""

from __future__ import annotations

import os

from runtime.oci.failure import Failure


class Labels:
    """What is to be written, and the host's own /proc to write it through: the container's may be a trap (CVE-2019-19921)."""

    __slots__ = ("apparmor", "procfs", "selinux")

    def __init__(self, apparmor: str, selinux: str) -> None:
        self.apparmor = apparmor
        self.selinux = selinux
        self.procfs = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def lower(apparmor: str, selinux: str) -> Labels | None:
    """Check that the kernel can apply the labels; None if there is none to apply."""
    if apparmor and not _reads("/sys/module/apparmor/parameters/enabled", "Y"):
        raise Failure("process.apparmorProfile: the kernel has no AppArmor", "remove the profile")
    if selinux and not os.path.exists("/sys/fs/selinux/enforce"):
        raise Failure("process.selinuxLabel: SELinux is not enabled", "remove the label")
    return Labels(apparmor, selinux) if apparmor or selinux else None


def _reads(path: str, text: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(fd, 16).decode().strip() == text
    finally:
        os.close(fd)


def apply(labels: Labels) -> None:
    """Have the kernel label the program that this process execs."""
    if labels.selinux:
        _write(labels.procfs, "self/attr/exec", labels.selinux)
    if labels.apparmor:
        try:
            _write(labels.procfs, "self/attr/apparmor/exec", f"exec {labels.apparmor}")
        except FileNotFoundError:  # before Linux 5.8, or the only module
            _write(labels.procfs, "self/attr/exec", f"exec {labels.apparmor}")
    os.close(labels.procfs)


def _write(procfs: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=procfs)
    try:
        os.write(fd, os.fsencode(text))
    finally:
        os.close(fd)
