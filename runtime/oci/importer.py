# SPDX-License-Identifier: Apache-2.0
"""The end of imports: a module imported in a container's root would be the container's file, run with our rights.

That is how a library was loaded in CVE-2019-14271.
"""

from __future__ import annotations

import gc
import sys


def freeze() -> None:
    """Make every further import of a module that is not loaded fail, in a child that is about to leave our root."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    gc.disable()
