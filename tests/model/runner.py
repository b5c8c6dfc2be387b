# SPDX-License-Identifier: Apache-2.0
"""How to carry one operation of the model test out under a given root."""

import errno
import fcntl
import mmap
import os
import shutil
import stat
from pathlib import Path

from tests.model.operations import Operation
from tests.support import syscalls

MAPPING = frozenset({"map", "peek"})


class Runner:
    """Carries operations out under one root, with its own open descriptors and mappings."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._descriptors: dict[object, int] = {}
        self._maps: dict[object, mmap.mmap] = {}
        self._held: list[int] = []

    def run(self, operation: Operation) -> object:
        """Return ("ok", value) or the name of the errno; nothing else is compared."""
        name, *arguments = operation
        try:
            return "ok", getattr(self, f"_{name}")(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def close(self) -> None:
        """Close what is still open."""
        for slot in list(self._descriptors):
            self._close(slot)

    def drop(self) -> None:
        """Close what is still open, whatever closing says: the server may be dead, or without descriptors."""
        self._release()
        for slot in list(self._descriptors):
            try:
                self._close(slot)
            except OSError:
                pass  # the descriptor is closed all the same

    def path(self, name: str) -> str:
        """Return the path of a name of this tree."""
        return f"{self.root}/{name}"

    def _write_to(self, path: str, flags: int, data: bytes, mode: int = 0o644) -> int:
        # O_NONBLOCK: nobody reads the FIFOs of this test.
        fd = os.open(self.path(path), flags | os.O_WRONLY | os.O_NONBLOCK, mode)
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)

    def _create(self, path: str, data: bytes, mode: int) -> int:
        return self._write_to(path, os.O_CREAT | os.O_EXCL, data, mode)

    def _append(self, path: str, data: bytes) -> int:
        return self._write_to(path, os.O_APPEND, data)

    def _overwrite(self, path: str, data: bytes) -> int:
        return self._write_to(path, os.O_CREAT | os.O_TRUNC, data)

    def _truncate(self, path: str, size: int) -> None:
        os.truncate(self.path(path), size)

    def _read(self, path: str) -> bytes:
        fd = os.open(self.path(path), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(fd, 1 << 20)
        finally:
            os.close(fd)

    def _mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.path(path), mode)

    def _rmdir(self, path: str) -> None:
        os.rmdir(self.path(path))

    def _rmtree(self, path: str) -> None:
        # rmtree itself would open a FIFO, and wait.
        if not stat.S_ISDIR(os.lstat(self.path(path)).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        shutil.rmtree(self.path(path))

    def _unlink(self, path: str) -> None:
        os.unlink(self.path(path))

    def _rename(self, old: str, new: str, flags: int) -> None:
        syscalls.renameat2(self.path(old), self.path(new), flags)

    def _link(self, old: str, new: str) -> None:
        os.link(self.path(old), self.path(new), follow_symlinks=False)

    def _symlink(self, path: str) -> None:
        os.symlink("target", self.path(path))

    def _fifo(self, path: str) -> None:
        os.mkfifo(self.path(path))

    def _chmod(self, path: str, mode: int) -> None:
        os.chmod(self.path(path), mode)

    def _chown(self, path: str, owner: tuple[int, int]) -> None:
        os.lchown(self.path(path), *owner)

    def _setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self.path(path), name, value, follow_symlinks=False)

    def _removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.path(path), name, follow_symlinks=False)

    def _utime(self, path: str) -> tuple[float, float]:
        os.utime(self.path(path), (1e9, 1.5e9), follow_symlinks=False)
        status = os.lstat(self.path(path))
        return status.st_atime, status.st_mtime

    def _list(self, path: str) -> list[str]:
        return sorted(os.listdir(self.path(path)))

    def _stat(self, path: str) -> tuple[int, ...]:
        return _facts(os.lstat(self.path(path)))

    def _descriptor(self, slot: object) -> int:
        if slot not in self._descriptors:
            raise OSError(errno.EBADF, "not open")
        return self._descriptors[slot]

    def _open(self, slot: object, path: str, flags: int) -> None:
        self._close(slot)
        self._descriptors[slot] = os.open(self.path(path), flags | os.O_NONBLOCK | os.O_NOFOLLOW)

    def _pwrite(self, slot: object, offset: int, data: bytes) -> int:
        return os.pwrite(self._descriptor(slot), data, offset)

    def _pread(self, slot: object, offset: int) -> bytes:
        return os.pread(self._descriptor(slot), 1 << 20, offset)

    def _ftruncate(self, slot: object, size: int) -> None:
        os.ftruncate(self._descriptor(slot), size)

    def _fstat(self, slot: object) -> tuple[int, ...]:
        return _facts(os.fstat(self._descriptor(slot)))

    def _fsync(self, slot: object) -> None:
        os.fsync(self._descriptor(slot))

    def _close(self, slot: object) -> None:
        if slot in self._maps:
            self._maps.pop(slot).close()
        if slot in self._descriptors:
            os.close(self._descriptors.pop(slot))

    def _write(self, slot: object, data: bytes) -> int:
        return os.write(self._descriptor(slot), data)

    def _next(self, slot: object, size: int) -> bytes:
        return os.read(self._descriptor(slot), size)

    def _fchmod(self, slot: object, mode: int) -> None:
        os.fchmod(self._descriptor(slot), mode)

    def _tmpfile(self, slot: object, directory: str, mode: int) -> None:
        self._close(slot)
        self._descriptors[slot] = os.open(self.path(directory), os.O_TMPFILE | os.O_RDWR, mode)

    def _linkat(self, slot: object, path: str) -> None:
        os.link(f"/proc/self/fd/{self._descriptor(slot)}", self.path(path), follow_symlinks=True)

    def _fallocate(self, slot: object, mode: int, offset: int, length: int) -> None:
        syscalls.fallocate(self._descriptor(slot), mode, offset, length)

    def _copy_range(self, source: object, target: object, offset: int, size: int, to: int) -> int:
        """Copy until all is there: each call may do a part only."""
        done = 0
        while done < size:
            moved = os.copy_file_range(
                self._descriptor(source), self._descriptor(target), size - done, offset + done, to + done
            )
            if not moved:
                break
            done += moved
        return done

    def _seek(self, slot: object, offset: int, whence: int) -> bool:
        """Compare the answer with the data: a hole may be taken for data, not the other way round."""
        fd = self._descriptor(slot)
        data = os.pread(fd, 1 << 20, 0)
        before = os.lseek(fd, 0, os.SEEK_CUR)
        try:
            found = os.lseek(fd, offset, whence)
        except OSError as error:
            if error.errno != errno.ENXIO or offset >= len(data) or whence == os.SEEK_HOLE:
                raise
            found = len(data)  # nothing but a hole
        os.lseek(fd, before, os.SEEK_SET)
        if whence == os.SEEK_DATA:
            return offset <= found and not any(data[offset:found])
        return offset <= found <= len(data) and not any(data[found : found + 1])

    def _map(self, slot: object) -> int:
        """Map what the file holds now, writable where the descriptor is."""
        fd = self._descriptor(slot)
        if slot in self._maps:
            self._maps.pop(slot).close()
        writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        length = len(os.pread(fd, 1 << 20, 0))
        if length:
            prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            self._maps[slot] = mmap.mmap(fd, length, mmap.MAP_SHARED, prot)
        return length

    def _mapping(self, slot: object) -> tuple[mmap.mmap, int]:
        """Return the mapping and how much of it the file still has: beyond that a touch would be SIGBUS."""
        if slot not in self._maps:
            raise OSError(errno.EBADF, "not mapped")
        mapping = self._maps[slot]
        return mapping, min(len(mapping), len(os.pread(self._descriptor(slot), 1 << 20, 0)))

    def _poke(self, slot: object, offset: int, data: bytes) -> bool:
        mapping, size = self._mapping(slot)
        if offset + len(data) > size:
            return False
        try:
            mapping[offset : offset + len(data)] = data
        except TypeError as error:
            raise OSError(errno.EACCES, "mapped for reading") from error
        mapping.flush()
        return True

    def _hold(self, path: str, count: int) -> None:
        """Open a name many times, each of which takes a descriptor of the server too."""
        for _ in range(count):
            self._held.append(os.open(self.path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW))

    def _release(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def _peek(self, slot: object) -> bytes:
        mapping, size = self._mapping(slot)
        return mapping[:size]


def _facts(status: os.stat_result) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_uid, status.st_gid, size, status.st_nlink == 0


class Past(Runner):
    """Keeps what files held when a descriptor was opened for reading: with coherence=overlay mappings may go on showing that."""

    def run(self, operation: Operation) -> object:
        """Return what a mapping that kept the old pages would answer; None where that is no question."""
        if operation[0] in ("open", "tmpfile", "close"):
            self._close(operation[1])
        return super().run(operation) if operation[0] in MAPPING and self.has(operation[1]) else None

    def has(self, slot: object) -> bool:
        """Tell whether the slot may be such a descriptor."""
        return slot in self._descriptors

    def is_shorter(self, slot: object, outcome: object) -> bool:
        """Tell whether it has less than `outcome` of a read: to touch a mapping behind its end would be SIGBUS."""
        return self.has(slot) and os.fstat(self._descriptors[slot]).st_size < len(_bytes(outcome))

    def shows(self, former: object, outcome: object) -> bool:
        """Tell whether `outcome` of a peek is the beginning of what the old pages hold."""
        return former is not None and _bytes(former).startswith(_bytes(outcome))

    def keep(self, operation: Operation) -> None:
        """After a successful open: copy the file if it was opened for reading."""
        _, slot, path, flags = operation
        if flags == os.O_RDONLY and stat.S_ISREG(os.stat(self.path(str(path))).st_mode):
            fd = self._descriptors[slot] = os.open(self.root, os.O_TMPFILE | os.O_RDWR)
            with open(self.path(str(path)), "rb") as file:
                os.pwrite(fd, file.read(), 0)


def _bytes(outcome: object) -> bytes:
    """Return what an outcome read; nothing where it is an error."""
    value = outcome[1] if isinstance(outcome, tuple) else b""
    return value if isinstance(value, bytes) else b""
