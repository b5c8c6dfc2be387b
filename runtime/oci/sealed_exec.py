# SPDX-License-Identifier: Apache-2.0
"""The final exec, by way of a tiny sealed program, so that /proc/self/exe in a container never is the host's interpreter.

Between our last line and the first of the container's program the kernel may open /proc/self/exe for the container: as
the interpreter named in a script's first line, or for a process that races. Whoever holds that descriptor can overwrite
the file once nobody runs it (CVE-2019-5736). So this process first becomes `stub`, an anonymous file sealed against
writing, and the stub becomes the program. It also waits for `start`: a created container is one page, not an interpreter.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from runtime.oci import stub, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn

    from runtime.oci.seccomp import Filter

_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
_F_ADD_SEALS, _EVERY_SEAL = 1033, 0xF  # seal, shrink, grow, write
_PROC_MAGIC = 0x9FA0
_REPORT = "=ii"  # which of stub.STEPS, errno
_DEEPEST = 5  # interpreters of interpreters that the kernel follows


def execute(
    path: str | bytes,
    arguments: Sequence[str | bytes],
    environment: Mapping[str, str] | Mapping[bytes, bytes],
    *,
    report: int,
    gate: int = -1,
    seccomp: Filter | None = None,
    limit: Callable[[], None] | None = None,
    init: bool = False,
) -> NoReturn:
    """Become the program at `path`; what fails from here on goes to the descriptor `report` (see `reported`).

    With `gate`, wait until a byte can be read there; its end instead of a byte ends the process. With `seccomp`, load that
    filter just before (needs no_new_privs; not for one with a listener). With `init`, this process stays as the program's parent
    and does what a pid 1 has to. `limit` is called when no descriptor and no file is
    needed any more. Every other descriptor but those that the program shall have must be close-on-exec. Raises OSError if not
    even the stub runs.
    """
    flags, program = (seccomp.flags, seccomp.program) if seccomp is not None else (0, b"")
    image = stub.image(report=report, gate=gate, flags=flags, program=program, init=init)
    if image is None:
        if init:
            raise OSError(errno.ENOSYS, "there is no init for this machine")
        if limit is not None:
            limit()
        _execute_checked(path, arguments, environment, report, gate, seccomp)
    fd = _sealed(image)
    os.set_inheritable(report, True)
    if gate >= 0:
        os.set_inheritable(gate, True)
    procfs = _has_procfs()
    if limit is not None:
        limit()
    try:
        os.execve(fd, [path, *arguments], environment)
    except OSError:
        if not procfs:
            raise
        os.execve(f"/proc/self/fd/{fd}", [path, *arguments], environment)  # a filter may know execve only


def reported(data: bytes, path: str) -> OSError | None:
    """Return the error that was read from `report` until its end; None if the program runs.

    The bytes may come from the container: whatever they are, the result is an error number and its text.
    """
    if not data:
        return None
    if len(data) != struct.calcsize(_REPORT):
        return OSError(errno.EPROTO, "the container sent an unreadable report", path)
    step, number = struct.unpack(_REPORT, data)
    text = os.strerror(number)
    if 0 <= step < len(stub.STEPS) and stub.STEPS[step]:
        text = f"{stub.STEPS[step]}: {text}"
    return OSError(number, text, path)


def _has_procfs() -> bool:
    """Tell whether /proc is what it should be, and not files of the container that only look like it."""
    try:
        fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return syscalls.filesystem_magic(fd) == _PROC_MAGIC
    finally:
        os.close(fd)


def _sealed(image: bytes) -> int:
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("unionrt", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # before Linux 6.3, where every memfd may be executed
            raise
        fd = os.memfd_create("unionrt", flags)
    os.write(fd, image)
    fcntl.fcntl(fd, _F_ADD_SEALS, _EVERY_SEAL)
    return fd


def _execute_checked(
    path: str | bytes,
    arguments: Sequence[str | bytes],
    environment: Mapping[str, str] | Mapping[bytes, bytes],
    report: int,
    gate: int,
    seccomp: Filter | None,
) -> NoReturn:
    """Do what the stub does, on machines for which we have none, after a look whether the program leads to our own file.

    Only a look: a process that already runs in the container may exchange a file after it.
    """
    step, number = 1, 0
    try:
        os.set_inheritable(report, False)
        if gate >= 0:
            os.set_inheritable(gate, False)
            if not os.read(gate, 1):
                os._exit(126)
        _refuse_ourselves(path)
        step = 2
        if seccomp is not None:
            syscalls.seccomp(seccomp.flags, seccomp.program)
        step = 3
        os.execve(path, [*arguments], environment)
    except OSError as error:
        number = error.errno or errno.EIO
        os.write(report, struct.pack(_REPORT, step, number))
    finally:
        os._exit(127 if number == errno.ENOENT else 126)


def _refuse_ourselves(path: str | bytes) -> None:
    """Raise EACCES if `path`, or the interpreter it names in its first line, is the file that this process runs."""
    try:
        ours = os.stat("/proc/self/exe")
    except FileNotFoundError:  # without /proc nobody can name it
        return
    for _ in range(_DEEPEST):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except PermissionError:  # may be executed, but not read: no script then
            return
        try:
            if os.path.samestat(os.fstat(fd), ours):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            start = os.read(fd, 256)
        finally:
            os.close(fd)
        words = start.partition(b"\n")[0][2:].split(maxsplit=1)
        if not start.startswith(b"#!") or not words:
            return
        path = words[0]
