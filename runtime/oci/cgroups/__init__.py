# SPDX-License-Identifier: Apache-2.0
"""Control groups of a container: one directory in every hierarchy, its limits, statistics, freezer and end.

`open_group` is the entry for a new container, `Group.from_state` for one that exists.
"""

from runtime.oci.cgroups.group import Group, open_group

__all__ = ["Group", "open_group"]
