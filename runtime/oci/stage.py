# SPDX-License-Identifier: Apache-2.0
"""The way from the parent into the container's namespaces: at once when all are new, else by an intermediate process.

If all are new, init is born in the pid namespace and makes the others, while the parent makes its v1 cgroups on another
processor. The intermediate process, *stage*, joins and makes the namespaces in the order that the kernel's checks leave
possible, and forks *init* as its sibling, so that init is the parent's child and pid 1 of a new pid namespace. The first of
them is told "ok" when the cgroups are there. Both tell the parent over the channel:

    stage: "map", "offsets" (each answered with "ok"), "init PID"
    init:  see init.py
    both:  "error TEXT"

Whatever happens here happens with imports forbidden: a module imported after the root has changed would be the container's,
executed with our rights (the Python form of CVE-2019-14271).
"""

from __future__ import annotations

import errno
import os

from runtime.oci import channel as messages
from runtime.oci import imports, init, log, namespaces, state, syscalls
from runtime.oci.failure import Failure, Step, describe
from runtime.oci.process.prepared import set_oom_score
from runtime.oci.rootfs import steps as rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from runtime.oci.job import Job

_SIGKILL = 9
_MADE_LAST = syscalls.CLONE_NEWCGROUP  # when the process is in its group


def spawn(job: Job) -> int:
    """Fork the first process; return its pid: init's if `job.namespaces.simple()`, else stage's."""
    new = job.namespaces.new & ~_MADE_LAST if job.namespaces.simple() else 0
    with Step("make the namespaces", _hint()):
        pid = job.group.fork(new & syscalls.CLONE_NEWPID)
    if pid == 0:
        _be_child(job, new & ~syscalls.CLONE_NEWPID)
    return pid


def _hint() -> str:
    """Return what may be wrong if namespaces cannot be made without a user namespace."""
    if os.geteuid() != 0:
        return "an ordinary user needs a user namespace; `unionrt spec --rootless` has one"
    return "the kernel or its limits in /proc/sys/user forbid one of them"


def _be_child(job: Job, new: int) -> NoReturn:
    """Make the `new` namespaces, be init or stage, tell the parent why that failed if it did, and end this process."""
    text, program = "", 0
    try:
        job.control.close()  # else we would not hear of the parent's end
        job.container.release()
        _die_with_parent()
        imports.forbid()
        rootfs.stand_at_root(job.root)
        if new:
            with Step("make the namespaces", _hint()):
                syscalls.unshare(new)
        if job.namespaces.simple():
            init.settle(job)
        messages.wait(job.channel)  # until the parent has made all cgroups and files
        _open_gate(job)
        with Step("join the cgroup"):
            job.group.enter()
        set_oom_score(job.process)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # hides memory, descriptors and executable
        if not job.namespaces.simple():
            _stage(job)
            init.settle(job)
        init.run(job)
    except Failure as failure:
        text, program = failure.line(), failure.program
    except OSError as error:
        text = f"{describe(error)}{_place(error)}"
    except BaseException as error:
        text = f"internal error: {type(error).__name__}: {error}{_place(error)}"
    finally:
        try:
            if text:
                messages.send(job.channel, "error", f"{program} {text}")
        finally:  # whatever happens: what the parent does next must not be done in the container
            os._exit(1 if text else 0)


def _open_gate(job: Job) -> None:
    """Open the fifos by which `start` speaks to the stub; later they may be out of reach."""
    with Step("open the container's gate"):
        job.gate = os.open(job.container.path(state.GATE), os.O_RDWR | os.O_CLOEXEC)
        report = job.container.path(state.REPORT)
        reader = os.open(report, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        job.report = os.open(report, os.O_WRONLY | os.O_CLOEXEC)
        os.close(reader)


def _place(error: BaseException) -> str:
    """Return where an error that nobody foresaw was raised, for --debug; `traceback` would read files by their path."""
    if not log.is_debug():
        return ""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f" ({code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name})"


def _stage(job: Job) -> None:
    """Join and make the namespaces, and return in a child that lives in them: init."""
    wanted = job.namespaces
    namespaces.join(wanted)
    new = wanted.new & ~_MADE_LAST
    if wanted.makes("user"):
        with Step("make the user namespace", "raise /proc/sys/user/max_user_namespaces"):
            syscalls.unshare(syscalls.CLONE_NEWUSER)  # alone: what is made after it belongs to it
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # else an ordinary user may not write our maps
        messages.ask(job.channel, "map")
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        new &= ~syscalls.CLONE_NEWUSER
    if wanted.has("user"):
        _become_root()
    with Step("make the namespaces"):
        syscalls.unshare(new)
    if job.root.make_unions is not None:
        job.root.make_unions()  # by a process of the host's pid namespace, as this is and init is not
    if wanted.makes("time") and job.config["linux"].get("timeOffsets"):
        messages.ask(job.channel, "offsets")
    with Step("start the container's first process", "raise linux.resources.pids.limit"):
        pid = syscalls.fork_sibling()
    if pid:
        messages.send(job.channel, "init", str(pid))
        os._exit(0)
    _die_with_parent()
    messages.wait(job.channel)  # the parent may have gone before the line above


def _become_root() -> None:
    """Become root of the user namespace, if it has one."""
    try:
        os.setgroups([])
    except PermissionError:  # forbidden to ordinary users, who could shed a group that denies them something
        pass
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise Failure(
            f"become root of the user namespace: {describe(error)}",
            "map the container's id 0 in linux.uidMappings and gidMappings",
        ) from None
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    _die_with_parent()  # a change of ids clears it


def _die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, _SIGKILL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
