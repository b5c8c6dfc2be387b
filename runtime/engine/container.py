# SPDX-License-Identifier: Apache-2.0
"""A container's traces on the host: its directory, its lock, and what the runtime knows of it; how they come, go, are swept.

`ROOT/containers/ID/` is the bundle; it holds `lock` too and, unless the user named one, the rw branch. `ROOT/run/` is the
runtime's: `unionrt --root ROOT/run list` shows the containers. The client and the supervisor both hold the lock (one open file,
shared over the fork), and either cleans up when the other has died. Where both were killed the lock is free, which is how the
next run knows what to sweep.
"""

import fcntl
import logging
import os
import shutil
from dataclasses import dataclass

from runtime.engine import ids
from runtime.oci import files
from runtime.oci.failure import Failure
from unionfs.errors import UserError

log = logging.getLogger(__name__)


def default_root() -> str:
    """Return where containers keep their state: $UNIONBOX_ROOT, else by user."""
    if root := os.environ.get("UNIONBOX_ROOT"):
        return files.absolute(root)
    if os.geteuid() == 0:
        return "/var/lib/unionbox"
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local/share")
    return os.path.join(data, "unionbox")


@dataclass(frozen=True, slots=True)
class Container:
    """The traces of one container, whose lock this process holds."""

    id: str
    root: str
    lock: int

    @property
    def directory(self) -> str:
        """Return the container's own directory, which is its bundle."""
        return os.path.join(self.root, "containers", self.id)

    @property
    def states(self) -> str:
        """Return the runtime's directory, in which the container is called as here."""
        return os.path.join(self.root, "run")

    @property
    def branch(self) -> str:
        """Return the directory for a private rw branch."""
        return os.path.join(self.directory, "rw")

    def kill(self) -> None:
        """Kill the container's processes, if it has any; PermissionError if we may not."""
        from runtime.oci import destroy, state

        made = state.open_if_there(self.states, self.id)
        if made is not None:
            destroy.end(made)

    def clean(self) -> None:
        """Kill what is left and remove every trace. May be called twice; OSError or Failure if something stays."""
        from runtime.oci import destroy, state  # nobody has to wait for them at the start

        made = state.open_if_there(self.states, self.id)
        if made is not None:
            with made.lock():
                destroy.destroy(made)
        try:
            self._remove()
        except PermissionError:  # its users' files, whom only their user namespace can name
            if not ids.in_servers(self._remove):
                raise

    def _remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=False, onerror=_unless_gone)


def _unless_gone(
    _function: object, _path: str, error: tuple[type[BaseException], BaseException, object]
) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def create(root: str) -> Container:
    """Make a container's directory under a new id and lock it."""
    try:
        os.makedirs(os.path.join(root, "containers"), mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot keep state in {root}: {error.strerror}", "set UNIONBOX_ROOT") from None
    identity = os.urandom(6).hex()
    directory = os.path.join(root, "containers", identity)
    guard = _lock(os.path.join(root, "lock"))
    try:
        os.mkdir(directory, 0o700)
        lock = _lock(os.path.join(directory, "lock"))
    finally:
        os.close(guard)
    return Container(identity, root, lock)


def sweep(root: str) -> list[str]:
    """Remove the traces of containers whose processes were all killed at once; return their ids."""
    stale = _stale(root)
    for container in stale:
        try:
            container.clean()
        except (OSError, Failure) as error:
            log.warning("cannot sweep container %s: %s", container.id, error)
        finally:
            os.close(container.lock)
    return [container.id for container in stale]


def _stale(root: str) -> list[Container]:
    """Return the containers that nobody holds, now held by us; no container is half made while we look."""
    parent = os.path.join(root, "containers")
    if not os.path.isdir(parent):
        return []
    guard = _lock(os.path.join(root, "lock"))
    found = []
    try:
        for identity in os.listdir(parent):
            directory = os.path.join(parent, identity)
            try:
                lock = _lock(os.path.join(directory, "lock"), wait=False)
            except OSError:
                continue  # alive, or just being swept by somebody else
            found.append(Container(identity, root, lock))
    finally:
        os.close(guard)
    return found


def _lock(path: str, *, wait: bool = True) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
