# SPDX-License-Identifier: Apache-2.0
"""The pyfuse3 session: speaks the FUSE protocol through libfuse."""

from unionfs.session.pyfuse3.session import NAME, serve

__all__ = ["NAME", "serve"]
