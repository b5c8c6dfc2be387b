# SPDX-License-Identifier: Apache-2.0
"""The end of imports: a module imported in a container's root would be the container's file, run with our rights.

That is how a library was loaded in CVE-2019-14271.
"""

from __future__ import annotations

import gc
import sys

from runtime.oci import module_cache

_kept: list[object] = []


def forbid() -> None:
    """Make every further import of a module that is not loaded fail, in a child that is about to leave our root."""
    # Kept, as to free them would copy the pages that this process shares with its parent.
    _kept.append((sys.path, sys.meta_path, sys.path_hooks, sys.path_importer_cache))
    sys.path, sys.meta_path, sys.path_hooks, sys.path_importer_cache = [], [], [], {}
    module_cache.stop()
    gc.disable()
