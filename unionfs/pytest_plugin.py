# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: `union_mount` mounts unions for a test and takes them away after it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from unionfs.branches.branch import Branch


@pytest.fixture
def union_mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Give a function that mounts branches (values of `unionfs.Branch` or "DIR=PERM" texts) and returns the mount point.

    The directories must exist. A relative path counts from the working directory, as on a command line, not from `tmp_path`:
    make them there first, and give them as `tmp_path / "upper"` in a Branch or f"{tmp_path}/upper=rw". UserError else.
    """
    from unionfs.api import mounted

    with ExitStack() as stack:
        count = 0

        def mount(*branches: Branch | str, options: str = "") -> Path:
            nonlocal count
            count += 1
            target = tmp_path / f"union{count}"
            target.mkdir()
            return stack.enter_context(mounted(branches, target, options=options))

        yield mount
