# SPDX-License-Identifier: Apache-2.0
"""What is known of a container between commands: a directory below the state root, its files, its lock.

    ID/             exists as long as the id is taken; locked (flock) by the command that changes the container
    ID/state.json   the record; pid 0 while the container is being created
    ID/config.json  the configuration as it was checked
    ID/exec.fifo    there until `start`; the container's first process waits for a byte
    ID/exec.result  tells `start` how the program's exec went; there as soon as the cgroup of the record is the container's

The status is never stored: it follows from the first process, the fifo and the freezer.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from runtime.oci import SPEC, files, jsontext, log
from runtime.oci.failure import Failure, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from runtime.oci.cgroups import Group

RECORD, CONFIG, GATE, REPORT = "state.json", "config.json", "exec.fifo", "exec.result"
_PATIENCE = 30.0  # seconds that a command waits for another one on the same container
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_LONGEST_ID = 1024


class Container:
    """One container; `record` is what state.json holds."""

    __slots__ = ("_lock", "directory", "id", "record")

    def __init__(self, root: str, identity: str, record: dict[str, Any]) -> None:
        self.id = identity
        self.directory = os.path.join(root, identity)
        self.record = record
        self._lock = -1

    def path(self, name: str) -> str:
        """Return the path of one of the container's files."""
        return os.path.join(self.directory, name)

    def lock(self) -> Lock:
        """Keep other commands from changing the container while in the `with` block; reads the record again."""
        return Lock(self)

    def acquire(self) -> None:
        """Take the lock for the rest of this process, or until `release`."""
        if self._lock < 0:
            self._lock = _lock(self.directory, self.id)

    def release(self) -> None:
        """Let the lock go."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def save(self) -> None:
        """Write the record, whole or not at all."""
        write_file(self.path(RECORD), jsontext.dumps(self.record))

    def load(self) -> None:
        """Read the record again."""
        self.record = _read_record(self.directory) or {"id": self.id, "pid": 0}

    def config(self) -> dict[str, Any]:
        """Return the container's configuration as it was checked at its creation."""
        with Step(f"read the configuration of {self.id}"):
            value: dict[str, Any] = jsontext.loads(files.read(self.path(CONFIG)))
        return value

    @property
    def pid(self) -> int:
        """The first process, 0 if there is none (any more)."""
        pid = int(self.record.get("pid", 0))
        started = start_time(pid) if pid else 0
        return pid if started and started == self.record.get("start") else 0

    def status(self) -> str:
        """Return creating, created, running, paused or stopped."""
        if not self.record.get("pid"):
            return "creating" if self._is_locked() else "stopped"
        if not self.pid:
            return "stopped"
        if self._is_frozen():  # before or after its start
            return "paused"
        return "created" if self._waits() else "running"

    def describe(self, status: str = "", pid: int | None = None) -> dict[str, Any]:
        """Return the state as the specification wants it, with what the peers add."""
        status = status or self.status()
        record = self.record
        state = {
            "ociVersion": record.get("ociVersion", SPEC),
            "id": self.id,
            "pid": pid if pid is not None else self.pid,
            "status": status,
            "bundle": record.get("bundle", ""),
            "rootfs": record.get("rootfs", ""),
            "created": record.get("created", ""),
            "owner": record.get("owner", ""),
        }
        if record.get("annotations"):
            state["annotations"] = record["annotations"]
        return state

    def remove(self) -> None:
        """Remove the directory; the record last, as long as it is there a removal that was killed can be repeated."""
        names = os.listdir(self.directory)
        for name in sorted(names, key=lambda name: name == RECORD):
            _unlink(self.path(name))
        os.rmdir(self.directory)

    def group(self) -> Group:
        """Return the container's cgroup; a Failure if its creation has not come so far."""
        from runtime.oci.cgroups import Group

        if not self.has_group():
            raise Failure(
                f"container {self.id} has no cgroup yet", "if its creation was killed, delete it with --force"
            )
        return Group.from_state(self.record["cgroup"])

    def has_group(self) -> bool:
        """Tell whether the cgroup of the record is the container's: a creation that was killed may only have wanted it."""
        return "cgroup" in self.record and os.path.exists(self.path(REPORT))

    def _waits(self) -> bool:
        """Tell whether the first process waits at its gate; a `start` that was killed may leave the fifo there."""
        try:
            os.close(os.open(self.path(GATE), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENXIO):
                return False
            raise
        return True

    def _is_locked(self) -> bool:
        try:
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _is_frozen(self) -> bool:
        return self.has_group() and self.group().frozen()


class Lock:
    """The container's lock, held in a `with` block."""

    __slots__ = ("_container",)

    def __init__(self, container: Container) -> None:
        self._container = container

    def __enter__(self) -> None:
        self._container.acquire()
        self._container.load()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._container.release()


def check_id(identity: str) -> str:
    """Return `identity`; a Failure if it cannot name a container."""
    for letter in identity:
        if letter not in _LETTERS:
            raise Failure(
                f"invalid container ID: invalid character `{letter}` in the ID {identity!r}",
                "use letters, digits, _ + - and ., no dot first",
            )
    if not identity or identity[0] == "." or len(identity) > _LONGEST_ID:
        raise Failure(f"invalid container ID {identity!r}", "use letters, digits, _ + - and ., no dot first")
    return identity


def reserve(root: str, identity: str) -> Container:
    """Take the id and the lock of a new container; a Failure if it is taken."""
    container = Container(root, check_id(identity), {"id": identity, "pid": 0})
    with Step("make the state directory", "give --root a directory that you may write to"):
        os.makedirs(root, 0o700, exist_ok=True)
        _refuse_open_root(root)
        try:
            os.mkdir(container.directory, 0o700)
        except FileExistsError:
            raise _taken(identity) from None
    container.acquire()
    return container


def check_free(root: str, identity: str) -> None:
    """Raise the Failure that `reserve` would; nothing is made."""
    if os.path.lexists(Container(root, check_id(identity), {"id": identity, "pid": 0}).directory):
        raise _taken(identity)


def _taken(identity: str) -> Failure:
    return Failure(f"container with given ID already exists: {identity}", "delete it or give another ID")


def open_container(root: str, identity: str) -> Container:
    """Return the container; a Failure if there is none of that id or it is not ours, PermissionError if we may not know."""
    check_id(identity)
    directory = os.path.join(root, identity)
    if not _is_ours(directory):
        raise Failure(f"container {identity!r} does not exist", f"see `unionrt --root {root} list`")
    return Container(root, identity, _read_record(directory) or {"id": identity, "pid": 0})


def all_containers(root: str) -> list[Container]:
    """Return every container, by id; one that is removed meanwhile may be missing."""
    with Step("look for containers", "give --root the directory that holds their state"):
        try:
            names = sorted(os.listdir(root))
        except FileNotFoundError:
            return []
    found = (open_if_there(root, name) for name in names if not name.startswith("."))
    return [container for container in found if container is not None]


def open_if_there(root: str, identity: str) -> Container | None:
    """Return the container, None if there is none of that id."""
    try:
        return open_container(root, identity)
    except Failure:
        return None


def _refuse_open_root(root: str) -> None:
    """Raise a Failure for a state root in which others could exchange our containers' directories (/tmp/unionrt-UID)."""
    status, own = os.stat(root), os.geteuid()
    writable = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    if writable or (own != 0 and status.st_uid not in (0, own)):
        raise Failure(
            f"others may change {root}, the directory of containers' states",
            "give --root a directory that only you can write to",
        )


def _is_ours(directory: str) -> bool:
    """Tell whether it is there; a Failure if somebody else made it, whose hooks we would run."""
    try:
        status = os.lstat(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if status.st_uid not in (0, os.geteuid()):
        raise Failure(
            f"{directory} belongs to the user {status.st_uid}",
            "give --root a directory that only you can write to",
        )
    return stat.S_ISDIR(status.st_mode)


def start_time(pid: int) -> int:
    """Return when the process started, in clock ticks since the boot; 0 if it has ended (a zombie has)."""
    try:
        text = files.read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = text[text.rindex(")") + 2 :].split()  # the name before may hold blanks and parentheses
    return 0 if fields[0] in "ZX" else int(fields[19])


def write_file(path: str, text: str) -> None:
    """Write a file under another name first, so that nobody reads half of it, nor a link there leads elsewhere."""
    try:
        _write_and_rename(path, text)
    except OSError as error:
        error.filename = path  # as the user knows it
        raise


def _write_and_rename(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}"
    data = text.encode("utf-8", "surrogateescape")
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(temporary, how, 0o644)
    except FileExistsError:  # of a command that was killed, or somebody's trap
        os.unlink(temporary)
        fd = os.open(temporary, how, 0o644)
    try:
        try:
            while data:  # a full file system takes a part, and refuses the rest
                data = data[os.write(fd, data) :]
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _read_record(directory: str) -> dict[str, Any] | None:
    """Return the record; None if there is none, or none that can be read: such a container can only be deleted."""
    try:
        value = jsontext.loads(files.read(os.path.join(directory, RECORD)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        log.warning(f"{directory}/{RECORD} is damaged: {error}")
        return None
    return value if isinstance(value, dict) else None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except IsADirectoryError:
        _remove_tree(path)


def _remove_tree(path: str) -> None:
    for entry in os.scandir(path):
        _remove_tree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
    os.rmdir(path)


def _lock(directory: str, identity: str) -> int:
    deadline = time.monotonic() + _PATIENCE
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Failure(f"container {identity!r} does not exist") from None
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_replaced(directory, fd):
                return fd
            os.close(fd)
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            continue
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
        if time.monotonic() > deadline:
            os.close(fd)
            raise Failure(f"another command has been busy with container {identity} for {_PATIENCE:.0f} s")
        time.sleep(0.005)


def _is_replaced(directory: str, fd: int) -> bool:
    """Tell whether `directory` is another one than the one that is open: a new container's of the same id."""
    try:
        return not os.path.samestat(os.stat(directory), os.fstat(fd))
    except FileNotFoundError:
        return False
