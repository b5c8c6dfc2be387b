# SPDX-License-Identifier: Apache-2.0
"""Making a group's directories, so that processes can join and limits can be written."""

from __future__ import annotations

import errno
import os
import stat

from runtime.oci.cgroups.files import read, write
from runtime.oci.cgroups.freezer import frozen
from runtime.oci.failure import Failure, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.cgroups.directories import Directories

# What v2 groups hand down, where there is such a controller.
_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma")
# The sticky bit says that a runtime of our kind made the directory: with it, so that there is no moment between. It means
# nothing else to anybody, as only the owner of a group may make or remove some below it anyway.
MARK = stat.S_ISVTX
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_DELEGATED = "/sys/kernel/cgroup/delegate"
_DELEGATED_AT_LEAST = "cgroup.procs cgroup.subtree_control cgroup.threads"


def begin(group: Directories) -> None:
    """Make what a first process has to be born with: the v2 group.

    Failure if it has processes already or is frozen. A hierarchy in which an ordinary user may not make groups is left out;
    for one who may not, the v1 groups are made now too, as the first process has to know which there are.
    """
    if group.v2:
        _make_or_leave_out(group, group.layout.v2, group.v2)
    if group.rootless:
        complete(group)
    if group.layout.unified and group.v2:
        _refuse_frozen(group)
        hand_down(group.layout.v2, group.v2, _CONTROLLERS)
        if group.owner:
            _hand_over(group.v2, *group.owner)


def complete(group: Directories) -> None:
    """Make the v1 groups that are not made yet, under the same rules."""
    for mount, path in dict.fromkeys((group.layout.v1[word], path) for word, path in group.v1.items()):
        if path not in group.made:
            _make_or_leave_out(group, mount, path)
    if group.v1:
        _refuse_frozen(group)


def hand_down(mount: str, directory: str, controllers: tuple[str, ...]) -> None:
    """Give a v2 group those of `controllers` that its ancestors have, from `mount` on; what cannot be given is left out."""
    above = mount
    for part in [*directory[len(mount) :].split("/")[1:]]:
        available = (read(above, "cgroup.controllers") or "").split()
        given = (read(above, "cgroup.subtree_control") or "").split()
        wanted = [word for word in controllers if word in available and word not in given]
        if wanted:
            _enable(above, wanted)
        above = f"{above}/{part}"


def _enable(directory: str, controllers: list[str]) -> None:
    """Enable all at once, else one by one: EBUSY in a group with processes, ENOENT for one gone, EACCES for other users."""
    for words in ([controllers], [[word] for word in controllers]):
        try:
            for some in words:
                write(directory, "cgroup.subtree_control", " ".join(f"+{word}" for word in some))
            return
        except OSError:
            continue


def _make_or_leave_out(group: Directories, mount: str, path: str) -> None:
    try:
        _make(group, mount, path)
    except OSError as error:
        beside_v1 = group.layout.hybrid and mount == group.layout.v2  # needed by few, missed by none
        if not beside_v1 and not (group.rootless and error.errno in _FORBIDDEN):
            raise Failure(f"cannot make the cgroup: {describe(error)}", _hint(error)) from None
        group.v1 = {word: at for word, at in group.v1.items() if group.layout.v1[word] != mount}
        if mount == group.layout.v2:
            group.v2 = ""


def _hint(error: OSError) -> str:
    if error.errno in _FORBIDDEN:
        return "this needs root, or a group that was handed to you; --cgroup-manager disabled does without"
    return ""


def _make(group: Directories, mount: str, path: str) -> None:
    try:
        _mkdir(group, mount, path, own=True)
    except FileNotFoundError:
        parent = mount
        for part in path[len(mount) + 1 :].split("/"):
            parent = f"{parent}/{part}"
            if parent == path or not os.path.isdir(parent):
                _mkdir(group, mount, parent, own=parent == path)


def _mkdir(group: Directories, mount: str, path: str, *, own: bool) -> None:
    try:
        os.mkdir(path, 0o755 | MARK if own else 0o755)
        group.made.append(path)
    except FileExistsError:
        if not os.path.isdir(path):  # the kernel's own file, cgroup.procs for example
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
        if own:
            _refuse_processes(path)
    if group.layout.v1.get("cpuset") == mount:
        _fill_cpuset(mount, path)


def _fill_cpuset(mount: str, path: str) -> None:
    """Copy the parent's CPUs and memory nodes: a new v1 cpuset has none and takes no process. Nor may its parents have none."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        _inherit(mount, path, file)


def _inherit(mount: str, path: str, file: str) -> str:
    """Return what the group has, copied from its parent if that is nothing."""
    text = read(path, file) or ""
    if not text and path != mount:
        text = _inherit(mount, os.path.dirname(path), file)
        write(path, file, text)
    return text


def _refuse_processes(path: str) -> None:
    from runtime.oci.cgroups.files import tree

    pids = [pid for directory in tree(path) for pid in (read(directory, "cgroup.procs") or "").split()]
    if pids:
        raise Failure(
            f"the cgroup {path} is not empty, processes in it: {len(pids)}",
            "give the container another linux.cgroupsPath",
        )


def _refuse_frozen(group: Directories) -> None:
    if frozen(group):
        raise Failure(
            f"the container's cgroup unexpectedly frozen: {group.directories()[0]} is frozen, it would never start",
            "thaw it or its parent, or give the container another linux.cgroupsPath",
        )


def _hand_over(directory: str, uid: int, gid: int) -> None:
    """Give the directory, and the files by which processes and controllers are spread below it, to the container's root.

    Never any other file: who owns a limit's file can lift the limit.
    """
    try:
        with open(_DELEGATED, encoding="ascii") as stream:
            files = stream.read().split()
    except OSError:
        files = _DELEGATED_AT_LEAST.split()
    os.chown(directory, uid, gid)
    for file in files:
        try:
            os.chown(f"{directory}/{file}", uid, gid)
        except FileNotFoundError:  # the kernel's list has files of controllers that the group lacks
            pass
