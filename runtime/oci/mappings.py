# SPDX-License-Identifier: Apache-2.0
"""The id maps of a new user namespace, written by the parent: directly, or through newuidmap and newgidmap."""

from __future__ import annotations

import errno
import os

from runtime.oci import files
from runtime.oci.failure import Failure, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Map = list[tuple[int, int, int]]  # first id inside, first id outside, how many


def complete(linux: dict[str, Any]) -> None:
    """Give a configuration with a new user namespace and no mappings some: our own ids, and our subordinate ones."""
    for key, names in (("uidMappings", ("uid_map", "subuid")), ("gidMappings", ("gid_map", "subgid"))):
        if not linux.get(key):
            own = os.geteuid() if key == "uidMappings" else os.getegid()
            linux[key] = [
                {"containerID": inside, "hostID": outside, "size": size}
                for inside, outside, size in _default(own, *names)
            ]


def write(pid: int, linux: dict[str, Any]) -> None:
    """Write the maps of the process `pid`, which has made its user namespace."""
    uids, gids = _map(linux.get("uidMappings", ())), _map(linux.get("gidMappings", ()))
    privileged = os.geteuid() == 0
    deny = forbids_groups(linux)
    if deny:
        with Step("forbid setgroups in the user namespace"):
            files.write(f"/proc/{pid}/setgroups", "deny")
    _write_one(pid, "gid_map", "newgidmap", gids, direct=privileged or deny)
    _write_one(pid, "uid_map", "newuidmap", uids, direct=privileged or _is_own(uids, os.geteuid()))


def forbids_groups(linux: dict[str, Any]) -> bool:
    """Tell whether nobody may set supplementary groups in the new user namespace, as an ordinary user maps his own id alone."""
    return os.geteuid() != 0 and _is_own(_map(linux.get("gidMappings", ())), os.getegid())


def _map(entries: Any) -> Map:
    return [(entry["containerID"], entry["hostID"], entry["size"]) for entry in entries]


def _is_own(ids: Map, own: int) -> bool:
    """Tell whether an ordinary user may write this map himself."""
    return len(ids) == 1 and ids[0][1:] == (own, 1)


def _write_one(pid: int, name: str, helper: str, ids: Map, *, direct: bool) -> None:
    if not direct:
        _call_helper(helper, pid, ids)
        return
    text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in ids)
    try:
        files.write(f"/proc/{pid}/{name}", text)
    except OSError as error:
        if error.errno == errno.EPERM and os.geteuid() == 0:  # root of a user namespace that maps less
            _call_helper(helper, pid, ids)
            return
        with Step(f"write the {name} of the user namespace", "the ids must be yours to give"):
            raise


def _call_helper(helper: str, pid: int, ids: Map) -> None:
    numbers = [str(number) for entry in ids for number in entry]
    for directory in os.environ.get("PATH", "/usr/bin:/bin").split(":"):
        path = os.path.join(directory, helper)
        if os.access(path, os.X_OK):
            break
    else:
        raise Failure(f"{helper} is not installed", "install uidmap, or map only your own id")
    status = os.waitstatus_to_exitcode(
        os.waitpid(os.posix_spawn(path, [helper, str(pid), *numbers], os.environ), 0)[1]
    )
    if status != 0:
        raise Failure(f"{helper} refuses the map {' '.join(numbers)}", f"see /etc/sub{helper[3:6]}")


def _default(own: int, map_file: str, sub_file: str) -> Map:
    """Return a map for somebody who asked for none."""
    if os.geteuid() == 0:
        return _everything(map_file)
    first, count = _subordinate(f"/etc/{sub_file}")
    return [(0, own, 1), *([(1, first, count)] if count else [])]


def _everything(map_file: str) -> Map:
    """Return the map that gives each of our ids to the same id inside."""
    with open(f"/proc/self/{map_file}") as stream:
        lines = [line.split() for line in stream]
    return [(int(inside), int(inside), int(size)) for inside, _outside, size in lines]


def _subordinate(path: str) -> tuple[int, int]:
    import pwd

    uid = os.getuid()
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    try:
        with open(path) as stream:
            for line in stream:
                fields = line.strip().split(":")
                if len(fields) == 3 and fields[0] in names:
                    return int(fields[1]), int(fields[2])
    except (OSError, ValueError):
        pass
    return 0, 0
