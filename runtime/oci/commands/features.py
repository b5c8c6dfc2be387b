# SPDX-License-Identifier: Apache-2.0
"""`unionrt features`: tell engines what this runtime can do, as the specification's features.md wants it."""

from __future__ import annotations

from runtime.oci import SPEC, jsontext
from runtime.oci.options import Command, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.settings import Settings

COMMAND = Command("features", "tell what the runtime can do, as JSON", "", least=0, most=0)

_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_NAMESPACES = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
_ACTIONS = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP")
_OPERATORS = ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")
_ARCHITECTURES = (
    "AARCH64 ARM MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE RISCV64 "
    "S390 S390X X32 X86 X86_64"
)
_FLAGS = ("LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV")


def run(settings: Settings, options: Options) -> int:
    """Print it."""
    print(jsontext.pretty(describe()))
    return 0


def describe() -> dict[str, Any]:
    """Return the features, whether this kernel has them or not."""
    from runtime.oci.process import capabilities
    from runtime.oci.rootfs import mountflags

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC,
        "hooks": list(_HOOKS),
        "mountOptions": mountflags.words(),
        "linux": {
            "namespaces": list(_NAMESPACES),
            "capabilities": [f"CAP_{name}" for name in capabilities.NAMES],
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": False,
                "systemdUser": False,
                "rdma": True,
            },
            "seccomp": {
                "enabled": True,
                "actions": [f"SCMP_ACT_{name}" for name in _ACTIONS],
                "operators": [f"SCMP_CMP_{name}" for name in _OPERATORS],
                "archs": [f"SCMP_ARCH_{name}" for name in _ARCHITECTURES.split()],
                "knownFlags": [f"SECCOMP_FILTER_FLAG_{name}" for name in _FLAGS],
                "supportedFlags": [f"SECCOMP_FILTER_FLAG_{name}" for name in _FLAGS],
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {"org.opencontainers.runc.checkpoint.enabled": "false"},
    }
