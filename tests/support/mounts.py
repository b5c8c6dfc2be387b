# SPDX-License-Identifier: Apache-2.0
"""What a container says of its own mounts."""

import os

from tests.support.oci import Bundle

SHOW = "cat /proc/self/mountinfo"


class Seen:
    """One mount as the container sees it: options of the mount, propagation fields, type, options of the filesystem."""

    def __init__(self, line: str) -> None:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        self.root, self.path = fields[3], fields[4]
        self.options = set(fields[5].split(","))
        self.propagation = " ".join(fields[6:])
        self.kind, _, rest = right.partition(" ")
        self.data = set(rest.rpartition(" ")[2].split(","))


def seen(bundle: Bundle) -> dict[str, Seen]:
    """Run the container and return its mounts by path; the uppermost one where there are several."""
    bundle.shell(SHOW)
    mounts = [Seen(line) for line in bundle.run().lines()]
    return {mount.path: mount for mount in mounts}


def map_users(bundle: Bundle, first: int = 100000) -> None:
    """Give the container a user namespace of 65536 ids from `first` on, and its root to them."""
    ids = [{"containerID": 0, "hostID": first, "size": 65536}]
    bundle.linux["namespaces"].append({"type": "user"})
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = ids
    for path in [bundle.rootfs, *bundle.rootfs.rglob("*")]:
        os.chown(path, first, first, follow_symlinks=False)
