# SPDX-License-Identifier: Apache-2.0
"""A container's config.json: Docker's defaults, and what the user wants. Decides, and writes one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from runtime.engine.wish import IdMap, Wish
from runtime.oci import SPEC, defaults, jsontext, state
from runtime.oci.cgroups import layout
from runtime.oci.process.accounts import ANNOTATION
from runtime.oci.seccomp.default import profile

CONFIG = "config.json"
PLACE = "rootfs"  # where the union is mounted
SOCKET = "union.sock"  # where its server is
GROUP = "unionbox-"  # with the id behind it, a container's cgroup
_CPU_PERIOD = 100_000
_TTY = 5  # the group of terminals


def write(directory: str, identity: str, wish: Wish, hidden: Sequence[str]) -> None:
    """Write the bundle of a container into its directory; `hidden` are paths that an empty directory covers."""
    config = configuration(identity, wish, hidden, layout.detect())
    if wish.plain_rootfs is None:
        os.mkdir(os.path.join(directory, PLACE), 0o755)
    state.write_file(os.path.join(directory, CONFIG), jsontext.dumps(config))


def configuration(identity: str, wish: Wish, hidden: Sequence[str], groups: layout.Layout) -> dict[str, Any]:
    """Return config.json for a machine with these cgroups."""
    capabilities = _capabilities(wish, groups)
    config: dict[str, Any] = {
        "ociVersion": SPEC,
        "root": _root(wish),
        "hostname": wish.hostname or identity,
        "process": _process(identity, wish, capabilities),
        "mounts": _mounts(wish),
        "annotations": {ANNOTATION: wish.user},
        "linux": {
            "namespaces": [{"type": kind} for kind in _namespaces(wish)],
            "cgroupsPath": f"/{GROUP}{identity}",
            "resources": resources(wish),
            "seccomp": profile(capabilities),
            "maskedPaths": [*defaults.masked(), *hidden],
            "readonlyPaths": list(defaults.READ_ONLY),
        },
    }
    if wish.user_namespace:
        config["linux"] |= {"uidMappings": _map(wish.uid_map), "gidMappings": _map(wish.gid_map)}
    return config


def resources(wish: Wish) -> dict[str, Any]:
    """Return linux.resources. Swap is never granted on top of a memory limit."""
    result: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if wish.memory is not None:
        result["memory"] = {"limit": wish.memory, "swap": wish.memory}
    if wish.cpus is not None:
        result["cpu"] = {"quota": max(1000, round(wish.cpus * _CPU_PERIOD)), "period": _CPU_PERIOD}
    if wish.pids is not None:
        result["pids"] = {"limit": wish.pids}
    return result


def _root(wish: Wish) -> dict[str, Any]:
    if wish.plain_rootfs is not None:
        return {"path": os.path.abspath(wish.plain_rootfs)}
    return {"path": PLACE, "type": "unionfs", "source": SOCKET, "options": ["nodev"]}


def _mounts(wish: Wish) -> list[dict[str, Any]]:
    """Return Docker's. A layer whose /dev or /sys is a link is refused: what is mounted there is to be there."""
    mounts = defaults.mounts(
        tty_group=not wish.gid_map or any(entry.has(_TTY) for entry in wish.gid_map),
        host_sys=wish.host_network and wish.user_namespace,
    )
    return [{**mount, "options": [*mount.get("options", ()), "dest-nofollow"]} for mount in mounts]


def _process(identity: str, wish: Wish, capabilities: Sequence[str]) -> dict[str, Any]:
    environment = [f"PATH={defaults.PATH}", f"HOSTNAME={wish.hostname or identity}", "container=unionbox"]
    if wish.terminal:
        environment.append("TERM=xterm")
    process: dict[str, Any] = {
        "args": list(wish.arguments),
        "env": [*environment, *wish.environment],
        "cwd": wish.directory,
        "terminal": wish.terminal,
        "noNewPrivileges": wish.no_new_privileges,
        "capabilities": {kind: list(capabilities) for kind in ("bounding", "effective", "permitted")},
    }
    if wish.window is not None:
        process["consoleSize"] = {"height": wish.window[0], "width": wish.window[1]}
    return process


def _capabilities(wish: Wish, groups: layout.Layout) -> list[str]:
    """Return Docker's, without CAP_MKNOD where nothing would keep the container from opening the node of a disk that it made."""
    guarded = wish.user_namespace or groups.unified or "devices" in groups.v1
    return [name for name in defaults.CAPABILITIES if guarded or name != "CAP_MKNOD"]


def _namespaces(wish: Wish) -> list[str]:
    kinds = ["mount", "pid", "uts", "ipc", "cgroup"]
    return kinds + ["network"] * (not wish.host_network) + ["user"] * wish.user_namespace


def _map(entries: Sequence[IdMap]) -> list[dict[str, int]]:
    return [{"containerID": entry.inside, "hostID": entry.outside, "size": entry.size} for entry in entries]
