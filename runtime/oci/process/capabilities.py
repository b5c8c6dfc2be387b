# SPDX-License-Identifier: Apache-2.0
"""The five capability sets of a process (capabilities(7)) as bit masks."""

from __future__ import annotations

import errno

from runtime.oci import log
from runtime.oci.process import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# In the order of their numbers in <linux/capability.h>.
NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
_NUMBERS = {f"CAP_{name}": number for number, name in enumerate(NAMES)}
_HIGHEST = 63


class Sets:
    """What a process may have; each set a bit mask."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(self, bounding: int, effective: int, inheritable: int, permitted: int, ambient: int) -> None:
        self.bounding = bounding
        self.effective = effective
        self.inheritable = inheritable
        self.permitted = permitted
        self.ambient = ambient


def number(name: str) -> int | None:
    """Return the number of a capability called CAP_NAME, in any case, or None."""
    return _NUMBERS.get(name.upper())


def lower(wanted: dict[str, Any] | None, warnings: list[str]) -> Sets:
    """Return the sets of `process.capabilities`; without it there are none.

    The specification wants a warning, not a failure, for what nobody knows or what the kernel's rules cannot grant.
    """
    wanted = wanted or {}
    unknown: set[str] = set()
    bounding = _mask(wanted, "bounding", unknown)
    permitted = _mask(wanted, "permitted", unknown)
    effective = _mask(wanted, "effective", unknown)
    inheritable = _mask(wanted, "inheritable", unknown)
    ambient = _mask(wanted, "ambient", unknown)
    if unknown:
        warnings.append(f"unknown capabilities are ignored: {', '.join(sorted(unknown))}")
    for kind, mask, limit, within in (
        ("effective", effective, permitted, "permitted"),
        ("inheritable", inheritable, bounding, "bounding"),
        ("ambient", ambient, permitted & inheritable, "permitted and inheritable"),
    ):
        if mask & ~limit:
            text = f"{kind} capabilities that are not {within} are ignored: {_listed(mask & ~limit)}"
            # `runc spec` and every step of a build with podman or buildah ask for ambient ones that cannot be.
            if kind == "ambient":
                log.info(text)
            else:
                warnings.append(text)
    inheritable &= bounding
    return Sets(bounding, effective & permitted, inheritable, permitted, ambient & permitted & inheritable)


def _mask(wanted: dict[str, Any], kind: str, unknown: set[str]) -> int:
    mask = 0
    for name in wanted.get(kind) or ():
        found = number(name)
        if found is None:
            unknown.add(name)
        else:
            mask |= 1 << found
    return mask


def _listed(mask: int) -> str:
    return ", ".join(f"CAP_{name}" for bit, name in enumerate(NAMES) if mask >> bit & 1)


def ungrantable(sets: Sets) -> str:
    """Return the names in `sets` that the calling process could not give, as it has not got them itself."""
    mine = syscalls.capget()[1]
    missing = 0
    for bit in range(len(NAMES)):
        if not mine >> bit & 1 and (sets.bounding | sets.permitted) >> bit & 1:
            missing |= 1 << bit
    return _listed(missing)


def drop_bounding(mask: int) -> None:
    """Drop everything outside `mask` from the bounding set; needs CAP_SETPCAP for what is there to drop."""
    for bit in range(_HIGHEST + 1):
        if mask >> bit & 1:
            continue
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, bit)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past the kernel's last capability
                return
            if error.errno != errno.EPERM or syscalls.prctl(syscalls.PR_CAPBSET_READ, bit):
                raise


def apply(sets: Sets) -> None:
    """Set the other four sets, as far as this process has them itself. Called after the ids have changed."""
    mine = syscalls.capget()[1]
    permitted = sets.permitted & mine
    # The bounding set was cut already, and what it lacks cannot become inheritable.
    inheritable = sets.inheritable & mine
    syscalls.capset(sets.effective & permitted, permitted, inheritable)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    ambient = sets.ambient & permitted & inheritable
    for bit in range(_HIGHEST + 1):
        if ambient >> bit & 1:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, bit)
