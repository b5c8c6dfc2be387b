# SPDX-License-Identifier: Apache-2.0
"""The ids of a container's user namespace, and those of the server's own, where an ordinary user has subordinate ids.

Inside a container root is its user, the others are the user's subordinate ids. A server without privileges could give no file to
one of them: it goes into a user namespace of its own, with the same ids by other numbers. There the number that the kernel shows
for owners whom it cannot name is one of its own, which no container has: such files can be told from those of nobody.
"""

import os
import pwd
import shutil
from collections.abc import Callable, Sequence

from runtime.engine.wish import IdMap
from runtime.oci import channel as messages
from runtime.oci import mappings, syscalls
from runtime.oci.failure import Failure
from unionfs.errors import UserError
from unionfs.options.table import IdRange

_ENOUGH = 65536
_OVERFLOW = 65534
_SHIFTED = 100000  # where the container's ids from 1 on begin in the server's namespace
# Ids of a container's user namespace when the machine grants root no range: far from every real user, below 2**31.
_SPARE = IdMap(0, 0x7FFF0000 - _ENOUGH, _ENOUGH)

Maps = tuple[tuple[IdMap, ...], tuple[IdMap, ...]]  # of users and of groups


def for_container(*, wanted: bool) -> Maps:
    """Return the maps of a new container, empty ones for no user namespace.

    `wanted` by root is a namespace at all, by others one with more than one id, if the machine grants the user so many.
    """
    if os.geteuid() == 0:
        return _of_root() if wanted else ((), ())
    own = IdMap(0, os.geteuid(), 1), IdMap(0, os.getegid(), 1)
    users, groups = (_granted(f"/etc/{name}", _names()) for name in ("subuid", "subgid"))
    if not wanted or users is None or groups is None or not _has_helpers():
        return (own[0],), (own[1],)
    # The last one is for what the server cannot name.
    rest = _ENOUGH - 1
    return (own[0], IdMap(1, users, rest)), (own[1], IdMap(1, groups, rest))


def _of_root() -> Maps:
    firsts = (_granted(f"/etc/{name}", {"root", "0"}) for name in ("subuid", "subgid"))
    users, groups = (_SPARE if first is None else IdMap(0, first, _ENOUGH) for first in firsts)
    return (users,), (groups,)


def _names() -> set[str]:
    uid = os.getuid()
    try:
        return {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        return {str(uid)}


def _has_helpers() -> bool:
    return shutil.which("newuidmap") is not None and shutil.which("newgidmap") is not None


def _granted(path: str, names: set[str]) -> int | None:
    """Return the first id of the first range of at least 65536 ids that is somebody's of these names."""
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            for line in stream:
                name, first, size = [*line.strip().split(":"), "", ""][:3]
                if name in names and first.isdigit() and size.isdigit() and int(size) >= _ENOUGH:
                    return int(first)
    except OSError:
        pass
    return None


def has_several(ids: Sequence[IdMap]) -> bool:
    """Tell whether a container of an ordinary user has subordinate ids."""
    return len(ids) > 1


def shown(ids: Sequence[IdMap], own: int) -> tuple[IdRange, ...]:
    """Return the union's map of ids for the server of an ordinary user's container; all others are to be shown as root's."""
    return ((0, 0, 1), (_SHIFTED, 1, ids[1].size)) if has_several(ids) else ((own, 0, 1),)


def enter_servers(maps: Maps) -> None:
    """Go into a user namespace, as root there, in which the files of a container's ids can be made, given and removed.

    Only for a process with one thread. UserError where the helpers refuse the ids.
    """
    users, groups = maps
    if not has_several(users):
        return
    fd = _new_namespace((_servers(users), _servers(groups)))
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWUSER)
    finally:
        os.close(fd)


def _servers(ids: tuple[IdMap, ...]) -> tuple[IdMap, ...]:
    own, others = ids
    last = IdMap(_OVERFLOW, others.outside + others.size, 1)
    return own, last, IdMap(_SHIFTED, others.outside, others.size)


def _new_namespace(maps: Maps) -> int:
    """Return a descriptor of a new user namespace: a child makes it, since the helpers must be called from outside."""
    ours, theirs = messages.pair()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            fd = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            messages.send(theirs, "made", "", [fd])
            messages.receive(theirs)  # the maps are written, or the other side has gone
        finally:
            os._exit(0)
    theirs.close()
    try:
        word, _, descriptors = messages.receive_from(child, ours)
        if word != "made":
            raise UserError("cannot make a user namespace for the server", "see user.max_user_namespaces")
        try:
            _write(child, maps)
        except BaseException:
            os.close(descriptors[0])
            raise
        return descriptors[0]
    finally:
        ours.close()
        os.waitpid(child, 0)


def _write(pid: int, maps: Maps) -> None:
    users, groups = maps
    try:
        mappings.write(pid, {"uidMappings": _entries(users), "gidMappings": _entries(groups)})
    except Failure as failure:
        raise UserError(failure.message, failure.hint) from None


def _entries(ids: Sequence[IdMap]) -> list[dict[str, int]]:
    return [{"containerID": m.inside, "hostID": m.outside, "size": m.size} for m in ids]


def in_servers(work: Callable[[], None]) -> bool:
    """Do something in a namespace as `enter_servers` makes it, in a child; tell whether it was done."""
    maps = for_container(wanted=True)
    if os.geteuid() == 0 or not has_several(maps[0]):
        return False
    child = os.fork()
    if child == 0:
        done = False
        try:
            enter_servers(maps)
            work()
            done = True
        finally:
            os._exit(0 if done else 1)
    return os.waitpid(child, 0)[1] == 0
