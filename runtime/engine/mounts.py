# SPDX-License-Identifier: Apache-2.0
"""Mounts of a container: the plan (which mount where), its execution below a foreign root, and the pivot.

Every target is reached component by component on descriptors without following a link, and the mount goes onto the
descriptor: nothing in the container's tree can redirect it (CVE-2021-30465, CVE-2019-19921).
"""

import errno
import os
import stat
from dataclasses import dataclass

from runtime.engine import syscalls
from runtime.engine.cgroup import Layout
from runtime.engine.spec import ContainerSpec
from runtime.engine.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY

_QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC

# Files and directories of /proc and /sys that tell of, or reach, the machine itself; the list is Docker's.
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_CPUS = "/sys/devices/system/cpu"
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_NODES = (("null", 3, 1), ("zero", 5, 1), ("full", 7, 1), ("random", 8, 1), ("urandom", 9, 1), ("tty", 0, 5))
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: `kind` is a filesystem type, or "bind" for a recursive, read-only copy of the host's `source`."""

    target: str
    kind: str
    flags: int = 0
    data: str = ""
    source: str = ""


def plan(spec: ContainerSpec, layout: Layout) -> list[Mount]:
    """Return the mounts that every container has, parents before children."""
    terminals = "newinstance,ptmxmode=0666,mode=0620"
    if not spec.gid_map or any(m.inside <= 5 < m.inside + m.size for m in spec.gid_map):
        terminals += ",gid=5"  # the group tty, where it has an id
    mounts = [
        Mount("/proc", "proc", _QUIET),
        Mount("/dev", "tmpfs", MS_NOSUID | syscalls.MS_STRICTATIME, "mode=755,size=65536k"),
        Mount("/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, terminals),
        Mount("/dev/shm", "tmpfs", _QUIET, "mode=1777,size=65536k"),
        Mount("/dev/mqueue", "mqueue", _QUIET),
    ]
    if spec.host_network and spec.user_namespace:
        # sysfs shows a network namespace, and only its owner may mount it.
        return [*mounts, Mount("/sys", "bind", source="/sys")]
    return [*mounts, Mount("/sys", "sysfs", _QUIET | MS_RDONLY), *_cgroup_mounts(layout)]


CGROUPS = "/sys/fs/cgroup"


def _cgroup_mounts(layout: Layout) -> list[Mount]:
    """Show the container its own groups, read-only: a mount in a cgroup namespace is rooted at the namespace's group."""
    top = CGROUPS
    if not layout.v1:
        return [Mount(top, "cgroup2", _QUIET | MS_RDONLY)] if layout.v2 else []
    mounts = [Mount(top, "tmpfs", _QUIET, "mode=755,size=1m")]
    together: dict[str, list[str]] = {}
    for controller, directory in layout.v1.items():
        together.setdefault(directory, []).append(controller)
    for names in together.values():
        mounts.append(Mount(f"{top}/{','.join(names)}", "cgroup", _QUIET | MS_RDONLY, ",".join(names)))
    if layout.v2:
        mounts.append(Mount(f"{top}/unified", "cgroup2", _QUIET | MS_RDONLY))
    return mounts


def make_private() -> None:
    """Stop every mount event from leaving this (new) mount namespace."""
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def open_directory(root: int, path: str, *, create: bool = True, mode: int = 0o755) -> int:
    """Return a descriptor of the directory `path` below `root`, made where it is missing; no link is followed.

    Raises ENOTDIR or ELOOP for a component that is not a directory.
    """
    fd = os.dup(root)
    try:
        for name in filter(None, path.split("/")):
            following = _open_child(fd, name, create, mode)
            os.close(fd)
            fd = following
        return fd
    except BaseException:
        os.close(fd)
        raise


def _open_child(parent: int, name: str, create: bool, mode: int) -> int:
    if name == "..":
        raise OSError(errno.EINVAL, "a path must not contain ..", name)
    how = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, how, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        pass
    return os.open(name, how, dir_fd=parent)


def proc_path(fd: int) -> str:
    """Return a path that names exactly what `fd` refers to."""
    return f"/proc/self/fd/{fd}"


def apply(root: int, mount: Mount) -> None:
    """Execute one mount of the plan below `root`."""
    fd = open_directory(root, mount.target)
    try:
        if mount.kind == "bind":
            source = syscalls.clone_mount(mount.source, recursive=True)
            syscalls.move_mount_fd(source, fd)
            os.close(source)
            return
        syscalls.mount(mount.kind, proc_path(fd), mount.kind, mount.flags, mount.data or None)
    except OSError as error:
        raise OSError(error.errno, error.strerror, mount.target) from None
    finally:
        os.close(fd)


def seal(root: int, path: str) -> None:
    """Make the mount at `path` read-only, now that the mount points in it exist."""
    fd = open_directory(root, path, create=False)
    try:
        flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | MS_RDONLY | _QUIET
        syscalls.mount(None, proc_path(fd), None, flags)
    finally:
        os.close(fd)


def fill_dev(root: int) -> None:
    """Make the device nodes and links of a new /dev; where mknod is not allowed (user namespace) the host's nodes are bound."""
    directory = open_directory(root, "dev")
    try:
        for name, minor, major in _NODES:
            _make_node(directory, name, os.makedev(major, minor))
        for name, target in _LINKS:
            os.symlink(target, name, dir_fd=directory)
    finally:
        os.close(directory)


def _make_node(directory: int, name: str, device: int) -> None:
    try:
        os.mknod(name, 0o666 | stat.S_IFCHR, device, dir_fd=directory)
        os.chmod(name, 0o666, dir_fd=directory)  # whatever the umask is
    except PermissionError:
        node = open_node(f"/dev/{name}", device)
        try:
            bind_on(node, _make_file(directory, name))
        finally:
            os.close(node)


def open_node(path: str, device: int) -> int:
    """Return an O_PATH descriptor of the character device at `path`, verified to be `device`."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != device:
        os.close(fd)
        raise OSError(errno.ENXIO, "is not the device it should be", path)
    return fd


def _make_file(directory: int, name: str) -> int:
    flags = os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o666, dir_fd=directory)


def bind_on(source: int, target: int) -> None:
    """Bind what `source` refers to onto what `target` refers to, and close `target`."""
    try:
        copy = syscalls.clone_mount_fd(source)
        try:
            syscalls.move_mount_fd(copy, target)
        finally:
            os.close(copy)
    finally:
        os.close(target)


def bind_console(terminal: int) -> None:
    """Show the container's terminal as /dev/console (after the pivot)."""
    directory = os.open("/dev", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        bind_on(terminal, _make_file(directory, "console"))
    finally:
        os.close(directory)


def enter_root() -> None:
    """Make the current directory, a mount point, the root, and let go of everything that was mounted before."""
    syscalls.pivot_root(".", ".")
    # The old root now lies on top of the new one at "/" and "." is the old one; it goes with all its sub-mounts.
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")


def hide(path: str) -> None:
    """Cover a file with /dev/null or a directory with an empty, read-only one; nothing to do if it does not exist."""
    fd = _open_existing(path)
    if fd is None:
        return
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            data = "mode=555,size=4k,nr_inodes=1"
            syscalls.mount("tmpfs", proc_path(fd), "tmpfs", _QUIET | MS_RDONLY, data)
        else:
            null = open_node("/dev/null", os.makedev(1, 3))
            try:
                bind_on(null, os.dup(fd))
            finally:
                os.close(null)
    finally:
        os.close(fd)


def make_read_only(path: str) -> None:
    """Bind `path` on itself, read-only; nothing to do if it does not exist."""
    fd = _open_existing(path)
    if fd is None:
        return
    bind_on(fd, os.dup(fd))
    os.close(fd)
    fd = _open_existing(path)
    if fd is None:
        return
    try:
        # A remount must repeat the flags the mount has: in a user namespace they are locked.
        kept = os.fstatvfs(fd).f_flag & _QUIET
        flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | MS_RDONLY | kept
        syscalls.mount(None, proc_path(fd), None, flags)
    finally:
        os.close(fd)


def masked() -> list[str]:
    """Return what is to be hidden in the present root: the fixed names, and the thermal counters of each processor."""
    try:
        names = os.listdir(_CPUS)
    except OSError:
        names = []
    return [*_MASKED, *(f"{_CPUS}/{name}/thermal_throttle" for name in names if name[:3] == "cpu")]


def _open_existing(path: str) -> int | None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return syscalls.openat2(path.lstrip("/"), os.O_PATH, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    finally:
        os.close(root)
