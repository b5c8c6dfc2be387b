# SPDX-License-Identifier: Apache-2.0
"""What the options before the command say, for every command."""

from __future__ import annotations

import os

from runtime.oci import files
from runtime.oci.failure import Failure
from runtime.oci.options import Option, Options

GLOBAL = (
    Option(
        "root",
        "",
        "DIR",
        "where the state of containers is kept (default: /run/unionrt, a user's in $XDG_RUNTIME_DIR)",
    ),
    Option("log", "", "PATH", "write messages to this file (or file:PATH, syslog:NAME, journald:NAME)"),
    Option("log-format", "", "text|json", "how (default: text)"),
    Option("log-level", "", "error|warning|info|debug", "which, and all that are worse (default: warning)"),
    Option("debug", "", "", "the same as --log-level debug"),
    Option(
        "cgroup-manager",
        "",
        "cgroupfs|systemd|disabled",
        "who makes cgroups (default: cgroupfs; systemd is not supported)",
    ),
    Option("systemd-cgroup", "", "", "the same as --cgroup-manager systemd"),
    Option(
        "rootless",
        "",
        "true|false|auto",
        "whether to let pass what an ordinary user may not do (default: auto)",
    ),
    Option("criu", "", "PATH", "ignored"),
    Option("version", "v", "", "show the version"),
)

_MANAGERS = ("cgroupfs", "systemd", "disabled")


class Settings:
    """What holds for all containers of a caller: `root`, an absolute path, is where their states are kept."""

    __slots__ = ("manager", "root", "rootless")

    def __init__(self, root: str, *, rootless: bool, manager: str = "cgroupfs") -> None:
        self.root = root
        self.rootless = rootless
        self.manager = manager


def from_options(options: Options) -> Settings:
    """Return the values of the global options; Failure for one that cannot be."""
    rootless = is_rootless(options.text("rootless", "auto"))
    root = files.absolute(options.text("root") or _default_root(rootless=rootless))
    manager = "systemd" if options.flag("systemd-cgroup") else options.text("cgroup-manager", "cgroupfs")
    if manager not in _MANAGERS:
        raise Failure(f"--cgroup-manager: unknown manager {manager!r}", f"give {', '.join(_MANAGERS)}")
    if manager == "systemd" and not os.path.isdir("/run/systemd/system"):
        raise Failure("--systemd-cgroup: systemd does not run here", "give --cgroup-manager cgroupfs")
    return Settings(root, rootless=rootless, manager=manager)


def _default_root(*, rootless: bool) -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if rootless and runtime:
        return os.path.join(runtime, "unionrt")
    return f"/tmp/unionrt-{os.geteuid()}" if rootless and os.geteuid() != 0 else "/run/unionrt"


def is_rootless(text: str = "auto") -> bool:
    """Tell whether to let pass what an ordinary user may not do: as `text` says, or if we are one."""
    if text in ("true", "false"):
        return text == "true"
    if text != "auto":
        raise Failure(f"--rootless: unknown value {text!r}", "give true, false or auto")
    return os.geteuid() != 0 or not _owns_all_ids()


def _owns_all_ids() -> bool:
    """Tell whether this is the initial user namespace (or one that maps every id)."""
    try:
        return files.read("/proc/self/uid_map").split() == ["0", "0", "4294967295"]
    except OSError:
        return True  # a kernel without user namespaces
