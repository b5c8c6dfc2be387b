# SPDX-License-Identifier: Apache-2.0
"""From the container's init to the user's program: environment, user, directory, descriptors, exec.

Runs in the child that init forked, inside the container, with the importer frozen.
"""

import errno
import os
import signal
from typing import NoReturn

from runtime.engine.spec import DEFAULT_PATH, Process
from runtime.oci import console, privileges, syscalls

CANNOT_EXECUTE, NOT_FOUND = 126, 127


class ExecError(Exception):
    """The program cannot be started; `status` is 126 or 127."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def environment(process: Process, user: privileges.User, hostname: str) -> dict[str, str]:
    """Return the program's environment: defaults, then what was asked for."""
    result = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": user.home, "container": "unionbox"}
    if process.terminal:
        result["TERM"] = "xterm"
    result.update(process.environment)
    return result


def start(process: Process, user: privileges.User, env: dict[str, str], slave: int | None) -> NoReturn:
    """Become the program. Raises ExecError, or OSError of a step before it."""
    os.setsid()
    if slave is not None:
        console.adopt(slave, user.uid)
    reset_signals()
    os.umask(0o022)
    if process.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    privileges.become(user, set_groups=may_set_groups())
    enter_directory(process.directory)
    execute(process.arguments, env)


def may_set_groups() -> bool:
    """Tell whether this user namespace allows setgroups(2)."""
    try:
        with open("/proc/self/setgroups", "rb") as stream:
            return stream.read().strip() == b"allow"
    except OSError:
        return True


def reset_signals() -> None:
    """Give every signal its default action and unblock it; Python itself ignores SIGPIPE and SIGXFSZ."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_DFL)
        except OSError:
            continue  # the two that the C library keeps for itself
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def enter_directory(path: str) -> None:
    """Change to `path` and verify that it lies inside the root (CVE-2024-21626)."""
    try:
        os.chdir(path)
    except OSError as error:
        raise ExecError(f"working directory {path}: {error.strerror}", CANNOT_EXECUTE) from None
    if not os.getcwd().startswith("/"):
        raise ExecError(f"working directory {path} is outside the container", CANNOT_EXECUTE)


def execute(arguments: tuple[str, ...], env: dict[str, str]) -> NoReturn:
    """Replace this process by the program, looked up in the PATH of `env` as execvp does."""
    name = arguments[0]
    found: OSError | None = None
    for path in candidates(name, env.get("PATH", DEFAULT_PATH)):
        try:
            if os.path.isdir(path):
                raise OSError(errno.EACCES, "is a directory")
            os.execve(path, arguments, env)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                found = error
                if error.errno != errno.EACCES:
                    break
    raise _explain(name, found)


def candidates(name: str, path: str) -> list[str]:
    """Return the paths to try for `name`."""
    if "/" in name:
        return [name]
    return [os.path.join(directory or ".", name) for directory in path.split(":")] if name else []


def _explain(name: str, error: OSError | None) -> ExecError:
    if error is not None:
        reason = "permission denied" if error.errno == errno.EACCES else (error.strerror or "").lower()
        if error.strerror == "is a directory":
            reason = "is a directory"
        return ExecError(f"{name}: {reason}", CANNOT_EXECUTE)
    if "/" in name:
        return ExecError(f"{name}: no such file or directory", NOT_FOUND)
    return ExecError(f"{name}: executable file not found in $PATH", NOT_FOUND)
