# SPDX-License-Identifier: Apache-2.0
"""From what the user asked for to what is to be done: branches, options, the bundle. Nothing is executed here."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.engine import bundle, ids
from runtime.engine.container import Container
from runtime.engine.wish import Wish
from unionfs.branches.branch import Branch
from unionfs.errors import UserError
from unionfs.live import branch_lock
from unionfs.options.table import Options


@dataclass(frozen=True, slots=True)
class Request:
    """A container to run: the user's wish, whose bundle is written, and what the supervisor serves (`branches`).

    `hold` is a descriptor that keeps others from the rw branch as long as client or supervisor lives. A `private` rw branch
    goes with the container.
    """

    wish: Wish
    branches: tuple[Branch, ...]
    options: Options
    hold: int
    private: bool


def prepare(wish: Wish, layers: Sequence[str], rw: str | None, container: Container, *, root: str) -> Request:
    """Settle the branches: `layers` read-only below `rw` or a private directory of the container; write the bundle.

    Raises UserError for a directory that cannot serve.
    """
    lower = [os.path.realpath(_directory(path, "--rootfs")) for path in layers]
    top = os.path.realpath(_directory(rw, "--rw")) if rw is not None else container.branch
    for path in lower:
        if path == top or path.startswith(top.rstrip("/") + "/"):
            raise UserError(f"the layer {path} lies in the rw directory {top}", "give another --rw")
    if rw is None:
        os.mkdir(top)
    elif not (wish.user_namespace and os.geteuid() == 0):  # there its root is nobody on the host
        _refuse_reachable(top)
    hold = _hold(top)
    if not os.listdir(top):
        try:
            _like(top, lower[0])
        except OSError as error:
            raise UserError(f"cannot write to {top}: {error.strerror}", "give another --rw") from None
    permission = Branch(top, "rw")
    branches = [Branch(path, "ro", _attributes(path)) for path in lower]
    hidden = {inside for path in lower for secret in (top, root) if (inside := _seen_in(path, secret))}
    bundle.write(container.directory, container.id, wish, sorted(hidden))
    return Request(wish, (permission, *branches), _options(wish), hold, private=rw is None)


def _options(wish: Wish) -> Options:
    """Return the union's options.

    An ordinary user's container has one id, or his subordinate ones too. Files of all others are shown as root's, which may then
    do with them what the server may, and that has the user's rights; a file of an id that has no number inside could not be
    changed, nor anything made in a directory.
    """
    if os.geteuid() == 0:
        return Options()
    users, groups = ids.shown(wish.uid_map, os.geteuid()), ids.shown(wish.gid_map, os.getegid())
    return Options(uid_map=users, gid_map=groups, unmapped=0, warn_perm=False)


def _attributes(layer: str) -> frozenset[str]:
    """Return what a layer may have: whiteouts, unless it is the machine's root or a union itself, which refuses their names."""
    try:
        os.lstat(os.path.join(layer, ".wh.x"))
    except PermissionError:
        return frozenset()
    except OSError:
        pass
    return frozenset({"wh"} if layer != "/" else ())


def _refuse_reachable(directory: str) -> None:
    """UserError for an rw branch that other users can reach: set-user-ID programs and devices made in the container lie there.

    The branch's own mode cannot keep them out, it is that of the container's `/`. A mode tells of access lists too: their
    entries show as the group's rights.
    """
    flags = os.statvfs(directory).f_flag
    if flags & os.ST_NOSUID and flags & os.ST_NODEV:
        return
    parent = directory
    while parent != "/":
        parent = os.path.dirname(parent)
        status = os.stat(parent)
        if status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o011:
            return
    raise UserError(
        f"--rw {directory} can be reached by other users, and so can set-user-ID programs that the container makes",
        "put it into a directory that only you may enter: mkdir -m 700",
    )


def _hold(directory: str) -> int:
    """Lock the rw branch: two servers would not know of each other's changes."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        branch_lock.acquire(fd, directory, patience=0)
    except OSError:
        holders = branch_lock.find_holders(fd, directory)
        os.close(fd)
        user = str(holders[0]) if holders and holders[0].mountpoint else "another container"
        raise UserError(f"--rw {directory} is in use by {user}", "give each its own") from None
    return fd


def _directory(path: str, option: str) -> str:
    if not os.path.isdir(path):
        if os.path.exists(path):
            raise UserError(f"{option} {path} is not a directory")
        raise UserError(
            f"{option} {path} does not exist", f"make it first: mkdir -p {path}" if option == "--rw" else ""
        )
    return path


def _like(directory: str, model: str) -> None:
    """Give an empty rw branch the owner and mode of the layer below: its root becomes the container's `/`."""
    status = os.stat(model)
    if os.geteuid() == 0:
        os.chown(directory, status.st_uid, status.st_gid)
    os.chmod(directory, stat.S_IMODE(status.st_mode))


def _seen_in(layer: str, directory: str) -> str:
    """Return the path under which a container on `layer` would see `directory`, empty if it would not."""
    prefix = layer.rstrip("/") + "/"
    return "/" + directory[len(prefix) :] if directory.startswith(prefix) else ""
