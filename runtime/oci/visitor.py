# SPDX-License-Identifier: Apache-2.0
"""The child side of `exec`: a process that joins a running container and becomes the program asked for.

The *scout* enters the control group and the namespaces and forks the *visitor*, which is the first of our processes in the
container's pid namespace; the scout then ends, and the parent, whose child the visitor is, reaps it. Everything that the
container's files could influence happens in the visitor, which is not dumpable, has no descriptor of the host's files and
imports nothing. Words to the parent: "pid NUMBER", "seccomp" + listener, "ready", "error TEXT". It is told "go".
"""

from __future__ import annotations

import os

from runtime.oci import channel as messages
from runtime.oci import imports, namespaces, syscalls
from runtime.oci.failure import Failure, Step, describe
from runtime.oci.process import become, keyring, launch, prepared, scheduling
from runtime.oci.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from runtime.oci.cgroups import Group
    from runtime.oci.seccomp import Filter

_FAILED = 255


class Visit:
    """What the child needs to know, prepared by the parent before the fork."""

    __slots__ = (
        "attach",
        "console",
        "filter",
        "group",
        "init",
        "keyring",
        "load",
        "namespaces",
        "process",
        "root",
    )

    def __init__(
        self,
        process: prepared.Prepared,
        joined: namespaces.Namespaces,
        group: Group,
        init: int,
    ) -> None:
        self.process = process
        self.namespaces = joined
        self.group = group
        self.init = init  # pid of the container's first process
        self.keyring = ""  # name of the container's session keyring
        self.console = -1  # where the terminal goes
        self.root = -1  # the container's root directory, if it has no mount namespace of its own
        self.filter: Filter | None = None
        self.load: Callable[[Filter, messages.Channel], None] | None = None
        self.attach: Callable[..., None] | None = None

    def has_listener(self) -> bool:
        """Tell whether the filter asks an agent."""
        return self.filter is not None and self.filter.listener

    def loader(self, channel: messages.Channel) -> Callable[[], None] | None:
        """Return what loads the filter, None if there is none."""
        found, load = self.filter, self.load
        if found is None or load is None:
            return None
        return lambda: load(found, channel)


def fork(visit: Visit, channel: messages.Channel, report: int) -> int:
    """Fork the scout and return its pid."""
    pid = visit.group.fork(beside=visit.init)
    if pid == 0:
        _guard(channel, lambda: _scout(visit, channel, report))
    return pid


def _guard(channel: messages.Channel, work: Callable[[], None]) -> NoReturn:
    """Do `work`, tell the parent of its failure, and end: no exception may unwind into the parent's code."""
    try:
        work()
        os._exit(0)
    except Failure as failure:
        messages.send(channel, "error", failure.line())
    except OSError as error:
        messages.send(channel, "error", describe(error))
    except BaseException as error:
        messages.send(channel, "error", f"internal error: {type(error).__name__}: {error}")
    finally:
        os._exit(_FAILED)


def _scout(visit: Visit, channel: messages.Channel, report: int) -> None:
    imports.forbid()
    _die_with_parent()
    joined = {fd for _, fd, _ in visit.namespaces.joined}
    launch.close_all_but(
        {0, 1, 2, channel.fileno(), report, visit.console, visit.root, *joined, *visit.process.kept} - {-1}
    )
    if visit.process.initial_affinity is not None:
        scheduling.pin(0, visit.process.initial_affinity, "initial")
    with Step("join the container's cgroup"):
        visit.group.enter()
    if visit.process.affinity is not None:
        scheduling.pin(0, visit.process.affinity, "final")
    prepared.set_oom_score(visit.process)
    # From here to the exec nobody in the container may trace us or look at our descriptors (CVE-2016-9962).
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    namespaces.join(visit.namespaces)
    namespaces.close(visit.namespaces)
    if visit.root >= 0:
        with Step("enter the container's root"):
            os.fchdir(visit.root)
            os.chroot(".")
            os.close(visit.root)
    pid = syscalls.fork_sibling()
    if pid == 0:
        _guard(channel, lambda: _visit(visit, channel, report))
    messages.send(channel, "pid", str(pid))


def _visit(visit: Visit, channel: messages.Channel, report: int) -> None:
    _die_with_parent()
    _be_root()
    _die_with_parent()  # a change of ids clears it
    os.setsid()
    if visit.keyring:
        keyring.join(visit.keyring)
    if visit.attach is not None:
        process = visit.process
        visit.attach(visit.console, process.window, process.user.uid, console_device=False)
        os.close(visit.console)
    if messages.receive(channel)[0] != "go":
        os._exit(_FAILED)
    # A filter without a listener is best loaded by the stub, if no_new_privs lets it; see sealed_exec.py.
    late = visit.filter if visit.process.no_new_privileges and not visit.has_listener() else None
    become.become(visit.process, visit.loader(channel) if late is None else None)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
    messages.send(channel, "ready")
    launch.execute(visit.process, report=report, keep=channel.fileno(), seccomp=late)


def _be_root() -> None:
    """Be root of the user namespace that was joined, if it has one."""
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError:
        pass  # capabilities came with the namespace; the ids follow in `become`


def _die_with_parent() -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
