# SPDX-License-Identifier: Apache-2.0
"""`unionrt spec`: write a config.json to begin with."""

from __future__ import annotations

import os

from runtime.oci import SPEC, defaults, jsontext
from runtime.oci.failure import Failure, Step
from runtime.oci.options import Command, Option, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.settings import Settings

COMMAND = Command(
    "spec",
    "write a config.json to begin with",
    "",
    (
        Option("bundle", "b", "DIR", "where to write it (default: here)"),
        Option("file", "f", "PATH", "write it to this file instead"),
        Option("rootless", "", "", "for an ordinary user: a user namespace, nothing that needs more"),
        Option("seccomp", "", "", "with a filter of system calls, the one that Docker's means"),
    ),
    least=0,
    most=0,
)

_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")


def run(settings: Settings, options: Options) -> int:
    """Write the file; refuses to replace one."""
    path = options.text("file") or os.path.join(options.text("bundle"), "config.json")
    config = default(rootless=options.flag("rootless"))
    if options.flag("seccomp"):
        from runtime.oci.seccomp.default import profile

        config["linux"]["seccomp"] = profile(_CAPABILITIES)
    text = jsontext.pretty(config) + "\n"
    with Step("write the configuration"):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            raise Failure(f"{path}: file exists", "remove it or give --bundle") from None
        try:
            with open(fd, "w") as stream:
                stream.write(text)
        except OSError as error:  # a full disk; half a configuration helps nobody
            os.unlink(path)
            error.filename = path
            raise
    return 0


def default(*, rootless: bool) -> dict[str, Any]:
    """Return the configuration of a container that runs a shell in the bundle's directory `rootfs`."""
    config: dict[str, Any] = {
        "ociVersion": SPEC,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [f"PATH={defaults.PATH}", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "unionrt",
        "mounts": defaults.mounts(tty_group=not rootless, host_sys=rootless),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in _namespaces()],
            "maskedPaths": defaults.masked(),
            "readonlyPaths": list(defaults.READ_ONLY),
        },
    }
    if rootless:
        _adapt(config)
    return config


def _namespaces() -> tuple[str, ...]:
    """A cgroup namespace only where there is nothing but v2: v1 programs look for their group below the whole hierarchy."""
    names = ("pid", "network", "ipc", "uts", "mount")
    return (*names, "cgroup") if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else names


def _adapt(config: dict[str, Any]) -> None:
    linux = config["linux"]
    del linux["resources"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "network"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
