# SPDX-License-Identifier: Apache-2.0
"""The order in which a child turns into the process that was prepared."""

from __future__ import annotations

from runtime.oci.failure import Failure, Step
from runtime.oci.process import capabilities, directory, labels, launch, syscalls, user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.oci.process.prepared import Prepared


def make_directory(prepared: Prepared) -> None:
    """Make a missing working directory; called by a container's init in its new root, before that becomes read-only."""
    directory.make(prepared.directory)


def become(
    prepared: Prepared,
    load_filter: Callable[[], None] | None = None,
    wait: Callable[[], None] = lambda: None,
) -> None:
    """Turn the child into the user: labels, no_new_privs, directory, capabilities, ids; find the program.

    Called once the root is final and descriptors no longer needed are closed. `load_filter` installs the seccomp filter:
    early if no_new_privs is off (it needs CAP_SYS_ADMIN), else as the last action, so that it need not allow the rest.
    `wait` returns when the parent has set limits for this process, which it may no longer be able to once it is the user.
    """
    _set_kernel_attributes(prepared)
    prepared.environment.setdefault(b"HOME", b"")
    if not prepared.environment[b"HOME"]:
        prepared.environment[b"HOME"] = user.home(prepared.user.uid)
    entered = directory.enter(prepared.directory)
    if entered:
        directory.verify(prepared.directory)  # before a filter that may forbid to ask where we are
    with Step("cannot drop capabilities"):
        capabilities.drop_bounding(prepared.capabilities.bounding)
    wait()
    if load_filter is not None and not prepared.no_new_privileges:
        load_filter()
    with Step(f"cannot become user {prepared.user.uid}:{prepared.user.gid}"):
        user.become(prepared.user)
    if not entered:
        if not directory.enter(prepared.directory):
            raise Failure(f"chdir to working directory {prepared.directory}: permission denied")
        directory.verify(prepared.directory)
    with Step("cannot set capabilities"):
        capabilities.apply(prepared.capabilities)
    prepared.path = launch.find(prepared.arguments[0], prepared.environment)
    if load_filter is not None and prepared.no_new_privileges:
        load_filter()


def _set_kernel_attributes(prepared: Prepared) -> None:
    if prepared.labels is not None:
        with Step("cannot set the security label of the program"):
            labels.apply(prepared.labels)
    if prepared.no_new_privileges:
        with Step("cannot set no_new_privs"):
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if prepared.personality is not None:
        with Step("cannot set linux.personality"):
            syscalls.personality(prepared.personality)
    if prepared.memory_policy is not None:
        with Step("cannot set linux.memoryPolicy"):
            syscalls.set_mempolicy(*prepared.memory_policy)
