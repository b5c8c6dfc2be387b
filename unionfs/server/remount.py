# SPDX-License-Identifier: Apache-2.0
"""Which options may change while a union is mounted, as AUFS' remount changes them, and what goes with that."""

from __future__ import annotations

import errno

from unionfs.filesystem import UnionFilesystem
from unionfs.options.aufs import Options

_FIXED = ("whiteout", "acl", "xino", "passthrough", "stackable")  # for the life of a mount


def set_options(filesystem: UnionFilesystem, options: Options) -> None:
    """Change options; EINVAL for what is fixed for the life of a mount."""
    present = filesystem.options
    for field in _FIXED:
        if getattr(options, field) != getattr(present, field):
            raise OSError(errno.EINVAL, f"option {field} cannot be changed while mounted")
    if (options.udba == "notify") != (present.udba == "notify"):
        raise OSError(errno.EINVAL, "option udba=notify cannot be switched on or off while mounted")
    if present.plink and not options.plink:
        filesystem.flush_plinks()
    filesystem.use_options(options)
    filesystem.invalidate_all()
