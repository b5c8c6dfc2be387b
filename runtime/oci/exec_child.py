# SPDX-License-Identifier: Apache-2.0
"""The child side of `exec`: a process that joins a running container and becomes the program asked for.

The *stage* enters the control group and the namespaces and forks the *joined process*, which is the first of ours in the
container's pid namespace; the stage then ends, and the parent, whose child the joined process is, reaps it. Everything that the
container's files could influence happens in the joined process, which is not dumpable, has no descriptor of the host's files
and imports nothing. Words to the parent: "pid NUMBER", "seccomp" + listener, "ready", "error TEXT". It is told "go".
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


class Job:
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


def fork(job: Job, channel: messages.Channel, report: int) -> int:
    """Fork the stage and return its pid."""
    pid = job.group.fork(beside=job.init)
    if pid == 0:
        _guard(channel, lambda: _stage(job, channel, report))
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


def _stage(job: Job, channel: messages.Channel, report: int) -> None:
    imports.forbid()
    _die_with_parent()
    joined = {fd for _, fd, _ in job.namespaces.joined}
    launch.close_all_but(
        {0, 1, 2, channel.fileno(), report, job.console, job.root, *joined, *job.process.kept} - {-1}
    )
    if job.process.initial_affinity is not None:
        scheduling.pin(0, job.process.initial_affinity, "initial")
    with Step("join the container's cgroup"):
        job.group.enter()
    if job.process.affinity is not None:
        scheduling.pin(0, job.process.affinity, "final")
    prepared.set_oom_score(job.process)
    # From here to the exec nobody in the container may trace us or look at our descriptors (CVE-2016-9962).
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    namespaces.join(job.namespaces)
    namespaces.close(job.namespaces)
    if job.root >= 0:
        with Step("enter the container's root"):
            os.fchdir(job.root)
            os.chroot(".")
            os.close(job.root)
    pid = syscalls.fork_sibling()
    if pid == 0:
        _guard(channel, lambda: _joined(job, channel, report))
    messages.send(channel, "pid", str(pid))


def _joined(job: Job, channel: messages.Channel, report: int) -> None:
    _die_with_parent()
    _be_root()
    _die_with_parent()  # a change of ids clears it
    os.setsid()
    if job.keyring:
        keyring.join(job.keyring)
    if job.attach is not None:
        process = job.process
        job.attach(job.console, process.window, process.user.uid, console_device=False)
        os.close(job.console)
    if messages.receive(channel)[0] != "go":
        os._exit(_FAILED)
    # A filter without a listener is best loaded by the stub, if no_new_privs lets it; see sealed_exec.py.
    late = job.filter if job.process.no_new_privileges and not job.has_listener() else None
    become.become(job.process, job.loader(channel) if late is None else None)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
    messages.send(channel, "ready")
    launch.execute(job.process, report=report, keep=channel.fileno(), seccomp=late)


def _be_root() -> None:
    """Be root of the user namespace that was joined, if it has one."""
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError:
        pass  # capabilities came with the namespace; the ids follow in `become`


def _die_with_parent() -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
