# SPDX-License-Identifier: Apache-2.0
"""Open /dev/fuse, mount with it, unmount, and tell a dead mount from a busy one.

Owns the two ways to mount: mount(2) for who may, fusermount3 for who may not. It speaks no FUSE protocol.
"""

import array
import errno
import os
import select
import shutil
import socket
import stat
import subprocess

from unionfs.errors import UserError
from unionfs.kernel import mount_table, syscalls

DEVICE = "/dev/fuse"
_MOUNT_FLAGS = {
    "ro": syscalls.MS_RDONLY,
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
    "sync": syscalls.MS_SYNCHRONOUS,
    "dirsync": syscalls.MS_DIRSYNC,
    "noatime": syscalls.MS_NOATIME,
    "nodiratime": syscalls.MS_NODIRATIME,
    "nosymfollow": syscalls.MS_NOSYMFOLLOW,
}
# What fusermount3 takes of the words above.
_HELPER_WORDS = ("ro", "nosuid", "nodev", "noexec", "sync", "dirsync", "noatime", "suid", "dev", "exec")
_ABSENT = (errno.ENOENT, errno.ENODEV, errno.ENXIO)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


class Busy(UserError):
    """A mount cannot be unmounted while something uses it."""

    def __init__(self, target: str) -> None:
        super().__init__(
            f"{target} is busy: a process has a file or its directory there", "end it, or use --lazy"
        )


def open_device() -> int:
    """Open /dev/fuse and return the descriptor; UserError says why that is impossible here."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _ABSENT:
            raise UserError(
                f"{DEVICE} does not exist", "load the fuse module, or give the container the device"
            ) from None
        if error.errno in _FORBIDDEN:
            raise UserError(
                f"{DEVICE} may not be opened by this user", f"let an administrator run chmod 666 {DEVICE}"
            ) from None
        raise UserError(f"cannot open {DEVICE}: {error.strerror}") from None


def may_mount() -> bool:
    """Tell whether mount(2) is open to this process (root, or root of its user namespace)."""
    return os.geteuid() == 0


def mount(
    device_fd: int,
    target: str,
    *,
    fsname: str,
    flags: frozenset[str],
    allow_other: bool,
    subtype: str = "unionfs",
    default_permissions: bool = True,
) -> None:
    """Mount `target` with mount(2); the session that reads `device_fd` must answer before anyone can look at it.

    `subtype` "" gives the plain type `fuse`. Raises UserError, with EPERM's own hint when this process may not mount.
    """
    bits = 0
    for word in flags:
        bits |= _MOUNT_FLAGS.get(word, 0)
    data = f"fd={device_fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    data += ",allow_other" if allow_other else ""
    data += ",default_permissions" if default_permissions else ""
    fstype = f"fuse.{subtype}" if subtype else "fuse"
    try:
        syscalls.mount(fsname, target, fstype, bits, data)
    except OSError as error:
        hint = "become root, or install fusermount3" if error.errno == errno.EPERM else ""
        raise UserError(f"cannot mount {target}: {error.strerror}", hint) from None


def mount_unprivileged(
    target: str,
    *,
    fsname: str,
    flags: frozenset[str],
    allow_other: bool,
    subtype: str = "unionfs",
    default_permissions: bool = True,
) -> int:
    """Let fusermount3 mount `target` and return the device descriptor that it opened.

    Raises UserError with fusermount3's own words (allow_other needs user_allow_other in /etc/fuse.conf).
    """
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise UserError(
            "only root can mount here", "install fuse3 (its program fusermount3 mounts for users)"
        )
    words = [word for word in _HELPER_WORDS if word in flags]
    words += [f"fsname={_escape(fsname)}"] + ([f"subtype={subtype}"] if subtype else [])
    words += ["allow_other"] if allow_other else []
    words += ["default_permissions"] if default_permissions else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            done = subprocess.run(
                [program, "-o", ",".join(words), "--", target],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode != 0:
            reason = " ".join(done.stderr.split()) or f"{program} failed"
            raise UserError(f"cannot mount {target}: {reason}", _hint(reason))
        return _receive(ours, target)


def _hint(reason: str) -> str:
    """Return what to do about fusermount3's two commonest refusals."""
    if DEVICE in reason and "ermission" in reason:
        return f"let an administrator run chmod 666 {DEVICE}"
    return "" if "user_allow_other" not in reason else "or mount without allow_other"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")


def _receive(channel: socket.socket, target: str) -> int:
    size = array.array("i").itemsize
    _data, ancillary, _flags, _address = channel.recvmsg(1, socket.CMSG_LEN(size))
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fd = array.array("i", payload[:size])[0]
            os.set_inheritable(fd, False)
            return fd
    raise UserError(f"cannot mount {target}: fusermount3 sent no descriptor")


def _flags(target: str, words: tuple[str, ...]) -> tuple[mount_table.Mount, set[str], set[str]]:
    """Return a mount, its flags, and those that it has when `words` were applied to them."""
    mounted = mount_table.find(target)
    if mounted is None:
        raise UserError(f"{target} is not mounted")
    present = {word for word in mounted.flags if word in _MOUNT_FLAGS}
    kept = set(present)
    for word in words:
        if word in _MOUNT_FLAGS:
            kept.add(word)
        else:
            kept.discard({"rw": "ro"}.get(word, f"no{word}"))
    return mounted, present, kept


def would_change(target: str, words: tuple[str, ...]) -> bool:
    """Tell whether `remount` has something to do."""
    _, present, kept = _flags(target, words)
    return present != kept


def remount(target: str, words: tuple[str, ...]) -> None:
    """Change the mount's own flags (ro, nosuid, ...) and keep those that `words` do not name.

    The kernel replaces all flags at a remount, so the present ones are read first; where they stay it is not asked, as it lets
    nobody but root. Must not run in the server process: the kernel writes dirty pages back through it.
    """
    mounted, present, kept = _flags(target, words)
    if kept == present:
        return
    bits = syscalls.MS_REMOUNT
    for word in kept:
        bits |= _MOUNT_FLAGS[word]
    try:
        syscalls.mount(mounted.source, mounted.target, None, bits)
    except OSError as error:
        raise UserError(f"cannot remount {target}: {error.strerror}") from None


def is_dead(target: str) -> bool:
    """Tell whether a mount is there whose server is gone."""
    try:
        os.statvfs(target)  # never cached, unlike stat
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def is_gone(fd: int) -> bool:
    """Tell whether the mount that a device was opened for is gone; then another one may have its number."""
    poller = select.poll()
    poller.register(fd, 0)
    return bool(poller.poll(0))  # POLLERR, or POLLNVAL once it is closed


def check_target(target: str) -> None:
    """Raise UserError unless `target` is a directory that no live union and no dead mount covers."""
    try:
        status = os.stat(target)
        os.statvfs(target)  # asks the server, where stat may be answered from the cache of a dead one
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise UserError(
                f"{target} is a dead mount: its server is gone", f"run: unionfs umount --lazy {target}"
            ) from None
        raise UserError(f"mount point {target}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise UserError(f"mount point {target} is not a directory")
    mounted = mount_table.find(target)
    if mounted is not None and mounted.fstype.startswith("fuse.unionfs"):
        raise UserError(f"{target} is busy: a union is mounted there", f"run: unionfs umount {target}")


def unmount_command(target: str, *, lazy: bool) -> list[str]:
    """Return the command by which another process unmounts `target`."""
    if may_mount():
        return ["umount", *(["--lazy"] if lazy else []), "--", target]
    return [shutil.which("fusermount3") or "fusermount", "-u", *(["-z"] if lazy else []), "--", target]


def unmount(target: str, *, lazy: bool = False) -> None:
    """Unmount `target`, by umount2(2) or by fusermount3; Busy, or UserError when it is not mounted."""
    try:
        syscalls.umount2(target, syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if lazy else 0))
    except OSError as error:
        if error.errno == errno.EPERM and _unmount_by_helper(target, lazy):
            return
        if error.errno == errno.EBUSY:
            raise Busy(target) from None
        if error.errno == errno.EINVAL:
            raise UserError(f"{target} is not a mount point") from None
        raise UserError(f"cannot unmount {target}: {error.strerror}") from None


def _unmount_by_helper(target: str, lazy: bool) -> bool:
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        return False
    command = [program, "-u", *(["-z"] if lazy else []), "--", target]
    done = subprocess.run(
        command, env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        if done.stderr.rstrip().endswith(os.strerror(errno.EBUSY)):
            raise Busy(target)
        raise UserError(f"cannot unmount {target}: {' '.join(done.stderr.split())}")
    return True
