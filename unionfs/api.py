# SPDX-License-Identifier: Apache-2.0
"""The Python API: `with unionfs.mounted([Branch("work", "rw"), Branch("base")]) as path: ...`"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from unionfs.branches.branch import Branch
from unionfs.options.aufs import Options


@contextlib.contextmanager
def mounted(
    branches: Sequence[Branch | str],
    mountpoint: str | os.PathLike[str] | None = None,
    *,
    options: Options | str = "",
) -> Iterator[Path]:
    """Mount a union for the length of a with block and yield its path.

    `branches` are top first, as `Branch` or "DIR=PERM"; without `mountpoint` a temporary directory is used. `options` is an
    `Options` or a string as after -o. Raises UserError if it cannot be mounted; nothing is left then.
    """
    from unionfs.errors import UserError
    from unionfs.options.aufs import parse
    from unionfs.server.control import request
    from unionfs.server.mount import MountPlan, default_flags, mount_in_background, wait_for_end
    from unionfs.session import device

    values = tuple(branch if isinstance(branch, Branch) else Branch.parse(branch) for branch in branches)
    flags: frozenset[str] = frozenset()
    if isinstance(options, str):
        wanted = parse(options)
        options, flags = wanted.options, wanted.mount_flags
    with contextlib.ExitStack() as stack:
        if mountpoint is None:
            mountpoint = stack.enter_context(tempfile.TemporaryDirectory(prefix="union-"))
        target = Path(mountpoint).absolute()
        pid = mount_in_background(MountPlan(values, str(target), options, flags=default_flags(flags)))
        try:
            yield target
        finally:
            with contextlib.suppress(UserError, OSError):
                request(str(target), "flush")
            device.unmount(str(target))
            wait_for_end(pid)
