# SPDX-License-Identifier: Apache-2.0
"""The way from the parent into the container's namespaces: one clone when all are new, else an intermediate process.

The intermediate process, *stage*, joins and makes the namespaces in the order that the kernel's checks leave possible, and forks
*init* as its sibling, so that init is the parent's child and pid 1 of a new pid namespace. Both tell the parent over the channel:

    stage: "map", "offsets" (each answered with "ok"), "init PID"
    init:  see init.py
    both:  "error TEXT"

Whatever happens here happens with the importer frozen: a module imported after the root has changed would be the container's,
executed with our rights (the Python form of CVE-2019-14271).
"""

from __future__ import annotations

import os

from runtime.oci import channel as messages
from runtime.oci import importer, init, namespaces, syscalls
from runtime.oci.failure import Failure, Step, describe
from runtime.oci.process.prepared import set_oom_score

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from runtime.oci.job import Job

_UNFIT_FOR_CLONE = syscalls.CLONE_NEWCGROUP  # made last, when the process is in its group


def spawn(job: Job) -> int:
    """Fork the first process; return its pid: init's if `job.namespaces.simple()`, else stage's."""
    simple = job.namespaces.simple()
    flags = job.namespaces.new & ~_UNFIT_FOR_CLONE if simple else 0
    with Step("make the namespaces", _hint()):
        pid = job.group.fork(flags)
    if pid == 0:
        _be_child(job, init.run if simple else _stage)
    return pid


def _hint() -> str:
    """Return what may be wrong if namespaces cannot be made without a user namespace."""
    if os.geteuid() != 0:
        return "an ordinary user needs a user namespace; `unionrt spec --rootless` has one"
    return "the kernel or its limits in /proc/sys/user forbid one of them"


def _be_child(job: Job, work: Callable[[Job], None]) -> NoReturn:
    """Carry out `work`, tell the parent why it failed if it did, and end this process."""
    text = ""
    try:
        importer.freeze()
        job.control.close()  # else we would not hear of the parent's end
        job.container.release()
        init.die_with_parent()
        with Step("join the cgroup"):
            job.group.enter()
        set_oom_score(job.process)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # hides memory, descriptors and executable
        work(job)
    except Failure as failure:
        text = failure.line()
    except OSError as error:
        text = f"{describe(error)} {_place(error)}"
    except BaseException as error:
        text = f"internal error: {type(error).__name__}: {error} {_place(error)}"
    finally:
        try:
            if text:
                messages.send(job.channel, "error", text)
        finally:  # whatever happens: what the parent does next must not be done in the container
            os._exit(1 if text else 0)


def _place(error: BaseException) -> str:
    """Return where an error that nobody foresaw was raised; the package `traceback` would read files by their path."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f"({code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name})"


def _stage(job: Job) -> None:
    wanted = job.namespaces
    namespaces.join(wanted)
    new = wanted.new & ~_UNFIT_FOR_CLONE
    if wanted.makes("user"):
        with Step("make the user namespace", "raise /proc/sys/user/max_user_namespaces"):
            syscalls.unshare(syscalls.CLONE_NEWUSER)  # alone: what is made after it belongs to it
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # else an ordinary user may not write our maps
        init.ask(job.channel, "map")
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        new &= ~syscalls.CLONE_NEWUSER
    if wanted.has("user"):
        _become_root()
    with Step("make the namespaces"):
        syscalls.unshare(new)
    if wanted.makes("time") and job.config["linux"].get("timeOffsets"):
        init.ask(job.channel, "offsets")
    pid = syscalls.fork_sibling()
    if pid:
        messages.send(job.channel, "init", str(pid))
        return
    init.die_with_parent()
    if messages.receive(job.channel)[0] != "ok":  # the parent has gone before the line above
        os._exit(1)
    init.run(job)


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
            f"become root of the user namespace: {describe(error)}", "map the container's id 0"
        ) from None
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    init.die_with_parent()  # a change of ids clears it
