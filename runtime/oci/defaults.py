# SPDX-License-Identifier: Apache-2.0
"""What a container has when nobody says otherwise: mounts, masked and read-only paths, Docker's capabilities."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Docker's fourteen.
CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID "
        "SYS_CHROOT"
    ).split()
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READ_ONLY = tuple(f"/proc/{name}" for name in "bus fs irq sys sysrq-trigger".split())
# Files and directories that tell of, or reach, the machine itself; the list is Docker's.
_MASKED = (
    *(f"/proc/{name}" for name in "acpi asound interrupts kcore keys latency_stats sched_debug scsi".split()),
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_CPUS = "/sys/devices/system/cpu"


def masked() -> list[str]:
    """Return what is to be hidden: the fixed names, and the thermal counters of each of this machine's processors."""
    try:
        names = sorted(os.listdir(_CPUS))
    except OSError:
        names = []
    counters = (f"{_CPUS}/{name}/thermal_throttle" for name in names if name[3:].isdigit())
    return [*_MASKED, *(path for path in counters if os.path.isdir(path))]


def mounts(*, tty_group: bool, host_sys: bool) -> list[dict[str, Any]]:
    """Return the mounts, parents before children.

    `tty_group`: the group 5 has an id in the container. `host_sys`: /sys shows the host's network, and is bound, as only the
    owner of a network namespace may mount it.
    """
    group = " gid=5" if tty_group else ""
    sys = mount("/sys", "sysfs", "sysfs", "nosuid noexec nodev ro")
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        mount("/dev", "tmpfs", "tmpfs", "nosuid strictatime mode=755 size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620" + group),
        mount("/dev/shm", "tmpfs", "shm", "nosuid noexec nodev mode=1777 size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev"),
        mount("/sys", "none", "/sys", "rbind nosuid noexec nodev ro") if host_sys else sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid noexec nodev relatime ro"),
    ]


def mount(destination: str, kind: str, source: str, options: str) -> dict[str, Any]:
    """Return an entry of config.json's mounts."""
    return {"destination": destination, "type": kind, "source": source, "options": options.split()}
