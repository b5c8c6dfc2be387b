# SPDX-License-Identifier: Apache-2.0
"""A union filesystem with AUFS' semantics in user space.

`with unionfs.mounted([unionfs.Branch("work", "rw"), unionfs.Branch("base")]) as path: ...`
Names are imported when they are first used, so that small programs start fast.
"""

TYPE_CHECKING = False  # importing it from `typing` takes longer than all the rest
if TYPE_CHECKING:
    from unionfs.api import mounted
    from unionfs.branches.branch import Branch
    from unionfs.errors import UserError
    from unionfs.options.aufs import Options

__all__ = ["Branch", "Options", "UserError", "mounted"]

__version__ = "0.1.0"  # of everything in this repository: pyproject.toml and every program take it from here

_HOMES = {"Branch": "branches.branch", "Options": "options.aufs", "UserError": "errors", "mounted": "api"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'unionfs' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"unionfs.{_HOMES[name]}"), name)
