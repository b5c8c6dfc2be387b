# SPDX-License-Identifier: Apache-2.0
"""Which directory of a hierarchy is a container's: the rules for `linux.cgroupsPath`, and for ordinary users.

- An absolute path is taken from the mount point of each hierarchy, and so is a relative one: the same value always means
  the same group, wherever the caller is. Without a path the group is `/ID`.
- For an ordinary user all of these are taken from the group the caller is in, as only something below it can be delegated; on v2
  from its parent, as a group with processes cannot hand controllers down.
"""

from __future__ import annotations

from runtime.oci import files
from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.cgroups.layout import Layout


def relative(given: str | None, identity: str) -> str:
    """Return the group's path below a mount point, without a leading slash; Failure if it leaves it or is in systemd's form."""
    path = given or identity
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise Failure(f"linux.cgroupsPath {path!r} leaves the hierarchy", 'remove ".." from it')
    if given and not given.startswith("/") and given.count(":") == 2:
        raise Failure(
            f"linux.cgroupsPath {given!r} is in systemd's form SLICE:PREFIX:NAME",
            "systemd is not supported as cgroup manager: give a path such as /containers/ID",
        )
    if not parts:
        raise Failure(f"linux.cgroupsPath {path!r} is the root of the hierarchy", "name a group below it")
    return "/".join(parts)


def directories(layout: Layout, path: str, own: dict[str, str] | None) -> tuple[dict[str, str], str]:
    """Return the group's directory for each v1 controller, and the v2 one or "".

    `own` tells the caller's own group by controller ("" for v2), where the group is to be made below it.
    """
    v1 = {word: _join(mount, (own or {}).get(word, ""), path) for word, mount in layout.v1.items()}
    v2 = ""
    if layout.v2:
        base = (own or {}).get("", "")
        v2 = _join(layout.v2, base.rpartition("/")[0], path)
    return v1, v2


def groups_of(pid: int | str = "self") -> dict[str, str]:
    """Return the groups a process is in by controller, "" for v2; empty if there is no such process."""
    try:
        return parse_groups(files.read(f"/proc/{pid}/cgroup"))
    except OSError:
        return {}


def parse_groups(text: str) -> dict[str, str]:
    """Return the groups by controller that the text of a /proc/PID/cgroup shows."""
    groups = {}
    for line in filter(None, text.split("\n")):  # other line ends may be part of a name
        _number, words, path = line.split(":", 2)
        for word in words.split(","):
            groups[word] = path
    return groups


def owner(config: dict[str, Any], layout: Layout) -> tuple[int, int] | None:
    """Return the host's uid and gid of the container's root if the v2 group is to be handed to it.

    It is where the container sees this group as the root of its hierarchy (a cgroup namespace of its own) and may write
    there (the mount of type cgroup is not read-only). Only v2 is safe to hand over.
    """
    linux = config.get("linux") or {}
    kinds = {
        namespace.get("type") for namespace in linux.get("namespaces") or () if not namespace.get("path")
    }
    if not layout.unified or "cgroup" not in kinds or "user" not in kinds:
        return None
    writable = any(
        mount.get("type") in ("cgroup", "cgroup2") and "ro" not in (mount.get("options") or ())
        for mount in config.get("mounts") or ()
    )
    if not writable:
        return None
    uid, gid = _root_of(linux.get("uidMappings")), _root_of(linux.get("gidMappings"))
    return None if uid is None or gid is None or (uid, gid) == (0, 0) else (uid, gid)


def _root_of(mappings: list[dict[str, Any]] | None) -> int | None:
    for mapping in mappings or ():
        if mapping["containerID"] == 0:
            return int(mapping["hostID"])
    return None


def _join(mount: str, base: str, path: str) -> str:
    return "/".join(part for part in (mount, base.strip("/"), path) if part)
