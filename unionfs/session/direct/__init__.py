# SPDX-License-Identifier: Apache-2.0
"""The direct session: speaks the FUSE protocol on /dev/fuse itself."""

from unionfs.session.direct.session import NAME, serve

__all__ = ["NAME", "serve"]
