# SPDX-License-Identifier: Apache-2.0
"""What commands do to a mounted union: requests to its server, in AUFS' order, with the checks only a client can make.

The server must never look at a path inside its own mount, as it would wait for itself; so such paths are refused here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from typing import Any

from unionfs.branches.branch import Branch
from unionfs.errors import UserError
from unionfs.kernel import mount_table
from unionfs.kernel.paths import absolute
from unionfs.live import registry, replies
from unionfs.operations import questions
from unionfs.options.aufs import MountRequest, Surgery, parse
from unionfs.server.control import request

_MOST_PAGES = 1000  # of an answer: branches and their paths, thousands of them
# Seconds in which passes what keeps a mount busy without being seen, on a machine under load.
_PASSES = 5.0


def locate(path: str) -> tuple[str, str]:
    """Return (mount point, path from its root) of a path on a union; the last part is not followed if it is a link."""
    full = mount_table.canonical(path)
    mounted = mount_table.containing(full)
    if mounted is None or not mounted.fstype.startswith("fuse"):
        raise UserError(f"{path} is not on a union mounted by unionfs", "see: findmnt -t fuse.unionfs")
    return mounted.target, os.path.relpath(full, mounted.target).removeprefix(".")


def status(mountpoint: str) -> Any:  # Any: what JSON carries
    """Return what the server says of itself: its owner's and root's question by the socket, anybody else's through the mount."""
    try:
        return request(mountpoint, "status")
    except registry.NotOurs as refusal:
        mounted = mount_table.containing(mount_table.canonical(mountpoint))
        assert mounted is not None
        try:
            return _ask(mounted.target, "status", refusal, at_root=True)
        except PermissionError:
            raise refusal from None


def which(path: str) -> list[dict[str, Any]]:
    """Return per branch what is at a path; who is neither the union's owner nor root gets only what it shows.

    OSError if such a user cannot go to the path.
    """
    mountpoint, inside = locate(path)
    try:
        rows: list[dict[str, Any]] = request(mountpoint, "which", path=inside)
        return rows
    except registry.NotOurs as refusal:
        full = os.path.join(mountpoint, inside.lstrip("/")) if inside else mountpoint
        try:
            rows = _ask(full, "which", refusal, at_root=not inside.strip("/"))
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
    for row in rows:
        directory = row["branch"].rpartition("=")[0]
        row["path"] = os.path.join(directory, inside.lstrip("/")) if inside else directory
    return rows


def _ask(path: str, question: str, refusal: UserError, *, at_root: bool) -> Any:
    """Ask through the mount; `refusal` if what is mounted there knows no such questions."""
    answer = b""
    for page in range(_MOST_PAGES):
        try:
            name = questions.attribute(question, page, at_root=at_root)
            part = os.getxattr(path, name, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS):
                raise refusal from None
            raise
        answer += part
        if len(part) < questions.PAGE:
            break
    try:
        return replies.read(question, b'{"ok": true, "result": %b}' % answer)
    except ValueError as error:
        raise UserError(f"{path}: its server answers nonsense: {error}") from None


def add_branch(mountpoint: str, index: int | None, branch: Branch) -> None:
    """Insert a branch (index None: append); OSError with EDOM, EINVAL …"""
    text = _text(Branch(_outside(mountpoint, branch.path), branch.permission, branch.attributes))
    request(mountpoint, "add", index=index, branch=text)


def delete_branch(mountpoint: str, path: str) -> None:
    """Remove a branch; OSError with EBUSY when something holds it."""
    request(mountpoint, "delete", path=_outside(mountpoint, path))


def modify_branch(mountpoint: str, path: str, permission: str) -> None:
    """Change a branch's permission."""
    request(mountpoint, "modify", path=_outside(mountpoint, path), permission=permission)


def busy(mountpoint: str, path: str) -> list[tuple[int, str]]:
    """Return (pid, path in the union) of what holds a branch."""
    holders = request(mountpoint, "busy", path=_outside(mountpoint, path))
    return [(int(pid), str(name)) for pid, name in holders]


def _text(branch: Branch) -> str:
    # A path may hold "=", so a branch without permission cannot always be written: AUFS' own default is asked for then.
    return str(branch) if branch.permission else branch.path


def _outside(mountpoint: str, path: str) -> str:
    """Return `path` made absolute; UserError when it lies on the union itself."""
    path = absolute(path)
    union = mount_table.containing(mount_table.canonical(mountpoint))
    if union is None or not union.fstype.startswith("fuse"):
        raise UserError(f"{mountpoint} is not on a union mounted by unionfs", "see: findmnt -t fuse.unionfs")
    inside = mount_table.containing(os.path.realpath(path))
    if inside is not None and union.device == inside.device:
        raise UserError(f"{path} is inside the union at {mountpoint}, it cannot be a branch of it")
    return path


def remount(mountpoint: str, text: str) -> None:
    """Do what `-o remount,TEXT` says: branch surgery left to right, then options and the mount's own flags.

    What was applied before an error stays, as in AUFS. A bare remount drops what the kernel cached.
    """
    wanted = parse(text, remount=True)
    _check_flags(mountpoint, wanted)
    for step in wanted.surgery:
        _operate(mountpoint, step)
    if "ro" in wanted.mount_flags:
        _set_flags(mountpoint, wanted)
    if wanted.changes:
        request(mountpoint, "set_options", text=_words_of_options(text))
    if "ro" not in wanted.mount_flags:
        _set_flags(mountpoint, wanted)
    if not wanted.surgery and not wanted.changes:
        request(mountpoint, "refresh")


def _check_flags(mountpoint: str, wanted: MountRequest) -> None:
    """Refuse flags that this user may not change, before anything is done; those that the mount has are no change."""
    from unionfs.session import device

    if not device.may_mount() and device.would_change(mountpoint, wanted.flag_words):
        words = ",".join(wanted.flag_words)
        raise UserError(
            f"{mountpoint}: only root may change the flags of a mount ({words})", "leave them out"
        )


def _set_flags(mountpoint: str, wanted: MountRequest) -> None:
    if wanted.flag_words:
        from unionfs.session import device

        device.remount(mountpoint, wanted.flag_words)


def _words_of_options(text: str) -> str:
    from unionfs.options.aufs import split_words

    surgery = re.compile(r"(add|ins|append|prepend|del|mod)[:=]")
    return ",".join(word for word in split_words(text) if not surgery.match(word))


def _operate(mountpoint: str, step: Surgery) -> None:
    if step.action == "del":
        delete_branch(mountpoint, step.branch.path)
    elif step.action == "mod":
        modify_branch(mountpoint, step.branch.path, step.permission)
    else:
        index = {"append": None, "prepend": 0}.get(step.action, step.index)
        add_branch(mountpoint, index, step.branch)


def _unmount(mounted: mount_table.Mount, *, lazy: bool) -> None:
    """Unmount; wait a moment if it is busy and no process is seen to use it.

    Whoever looks into procfs, as our server does, may have a process in its hands that ended meanwhile, and with it what that
    had mapped; a system call on a path that is under way shows nowhere.
    """
    from unionfs.kernel import procfs
    from unionfs.session import device

    end = time.monotonic() + _PASSES
    while True:
        try:
            device.unmount(mounted.target, lazy=lazy)
            return
        except device.Busy:
            below = mounted.target.rstrip("/") + "/"
            if any(other.target.startswith(below) for other in mount_table.read()):
                raise
            if time.monotonic() > end or procfs.holder_of(mounted) is not None:
                raise
            time.sleep(0.02)


def unmount(target: str, *, lazy: bool) -> None:
    """Flush pseudo-links, unmount and wait for the server's end; a dead mount is detached."""
    from unionfs.session import device

    mounted = mount_table.find(target)
    if mounted is None or not mounted.fstype.startswith("fuse"):
        raise UserError(f"{target} is not the mount point of a union")
    if device.is_dead(mounted.target):
        device.unmount(mounted.target, lazy=True)
        return
    with contextlib.ExitStack() as stack:
        server = None
        try:
            found = stack.enter_context(registry.find(mounted.target))
            server = found.fd, found.pid
            request(mounted.target, "flush")
        except UserError:
            pass  # a server without a control socket, or a hung one: nothing can be flushed
        except OSError:
            if not lazy:
                raise
        _unmount(mounted, lazy=lazy)
        if server is not None and not lazy:
            registry.wait_for_end(*server)
