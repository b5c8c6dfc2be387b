# SPDX-License-Identifier: Apache-2.0
"""What the parent does for the root, on the host and with its rights, before the container's namespaces exist.

Everything that the config asks for is turned into objects here, and their modules are imported: init imports nothing.
"""

from __future__ import annotations

import os
import stat

from runtime.oci import log
from runtime.oci.failure import Failure, Step
from runtime.oci.rootfs import devices, pivot, syscalls
from runtime.oci.rootfs.binds import Bind
from runtime.oci.rootfs.cgroupfs import Cgroup
from runtime.oci.rootfs.mountflags import Options
from runtime.oci.rootfs.mounts import Change, Filesystem, Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.oci.rootfs.union import Union

    Config = dict[str, Any]

_USER_HINT = "the container's root user needs the right: is the root owned by the ids of linux.uidMappings?"


class Prepared:
    """The checked root of a container and the descriptors that only the parent can open."""

    __slots__ = (
        "devices", "fuse", "has_namespace", "hint", "made_devices", "make_unions", "masked", "mounts", "nodes", "propagation",
        "read_only", "read_only_paths", "root", "root_fd", "set_sysctls", "sysctl", "tree_propagation", "union",
    )  # fmt: skip

    def __init__(self, config: Config, bundle: str) -> None:
        linux = config.get("linux") or {}
        root = config["root"]
        self.root: str = os.path.realpath(os.path.join(bundle, root["path"]))
        self.root_fd = -1
        self.union = _root_union(root, bundle)
        self.fuse = -1  # where stage finds a FUSE device
        self.make_unions: Callable[[], None] | None = (
            None  # what stage calls in the container's user namespace
        )
        self.read_only = bool(root.get("readonly"))
        self.has_namespace = "mount" in namespaces(linux)
        self.hint = _USER_HINT if "user" in namespaces(linux) else ""
        self.propagation, self.tree_propagation = _propagation(linux.get("rootfsPropagation") or "")
        self.mounts = [_mount(entry, bundle, linux) for entry in config.get("mounts") or ()]
        # A /dev that is bound from elsewhere is complete, and not ours to change.
        bound = any(
            isinstance(mount, Bind) and os.path.normpath(mount.where) == "/dev" for mount in self.mounts
        )
        self.devices = None if bound else devices.wanted(linux.get("devices") or [])
        # Devices that only the parent may make, and the tmpfs where it did.
        self.made_devices: list[devices.Device] = []
        self.nodes = -1
        self.masked: list[str] = linux.get("maskedPaths") or []
        self.read_only_paths: list[str] = linux.get("readonlyPaths") or []
        self.sysctl: dict[str, str] = linux.get("sysctl") or {}
        self.set_sysctls: Callable[[dict[str, str]], None] | None = None

    def unions(self) -> list[Union]:
        """Return the root and the mounts that are of type `unionfs`."""
        mounts = [mount for mount in self.mounts if mount.kind == "unionfs"]
        return [union for union in (self.union, *mounts) if union is not None]  # type: ignore[misc]  # by their kind

    def close(self) -> None:
        """Close what `prepare` opened (in the parent, after the fork)."""
        for mount in self.mounts:
            if isinstance(mount, Bind) and mount.tree >= 0:
                os.close(mount.tree)
                mount.tree = -1
        for union in self.unions():
            union.close()
        if self.nodes >= 0:
            os.close(self.nodes)
            self.nodes = -1
        if self.fuse >= 0:
            os.close(self.fuse)
            self.fuse = -1


def namespaces(linux: dict[str, Any]) -> dict[str, str]:
    """Return the kinds of namespace that the container has, with the path of those that it joins."""
    return {entry["type"]: entry.get("path") or "" for entry in linux.get("namespaces") or ()}


def prepare(config: Config, bundle: str, *, identity: str, rootless: bool) -> Prepared:
    """Check the root and its mounts, and open what needs the parent's rights. Raises `Failure`."""
    prepared = Prepared(config, bundle)
    check(prepared)
    linux = config.get("linux") or {}
    if prepared.sysctl:
        prepared.set_sysctls = checked_sysctl(prepared.sysctl, config)
    binds = [mount for mount in prepared.mounts if isinstance(mount, Bind)]
    try:
        _open_mapped(binds, config)
        if "user" in namespaces(linux) and not rootless:
            _open_hidden([bind for bind in binds if bind.tree < 0])
            _make_nodes(prepared, linux)
        if not prepared.propagation & syscalls.MS_SHARED:
            for bind in binds:
                if bind.tree >= 0:  # else it would tell the host of mounts in it
                    syscalls.mount_setattr(bind.tree, propagation=syscalls.MS_SLAVE, recursive=True)
        if prepared.unions():
            own_users = "user" in namespaces(linux)
            _make_unions(prepared, {"id": identity, "bundle": bundle}, own_users=own_users, rootless=rootless)
    except BaseException:
        prepared.close()
        raise
    return prepared


def check(prepared: Prepared) -> None:
    """Raise a Failure for what the root cannot be; warn of what is not done."""
    if not os.path.isdir(prepared.root):
        raise Failure(f"the root {prepared.root} is no directory", "see root.path of config.json")
    if not prepared.has_namespace and prepared.union is not None:
        raise Failure("a root of type unionfs needs a mount namespace", "add one to linux.namespaces")
    if not prepared.has_namespace and (prepared.mounts or prepared.masked or prepared.read_only_paths):
        log.warning("without a mount namespace nothing is mounted or masked, as it would be on the host")
        prepared.mounts = []
    if prepared.root == "/" and prepared.has_namespace:
        raise Failure("the root is the host's own", "give root.path a directory of its own")


def _propagation(word: str) -> tuple[int, bool]:
    if not word:
        return 0, False
    try:
        return pivot.propagation(word)
    except ValueError:
        raise Failure(
            f"linux.rootfsPropagation: unknown value {word!r}", "shared, slave, private or unbindable"
        ) from None


def _root_union(root: dict[str, Any], bundle: str) -> Union | None:
    if root.get("type") != "unionfs":
        return None
    return _union("/", os.path.join(bundle, root.get("source") or ""), Options(root.get("options") or []))


def _union(where: str, socket: str, options: Options) -> Union:
    from runtime.oci.rootfs.union import Union

    return Union(where, socket, options)


def _make_unions(prepared: Prepared, description: dict[str, str], *, own_users: bool, rootless: bool) -> None:
    from runtime.oci.rootfs import union

    unions = prepared.unions()
    for each in unions:
        each.connect()
    if not own_users:
        union.make_all(unions, -1, description)
        return
    if not rootless:
        with Step("make a FUSE device for the user namespace"):
            prepared.fuse = union.make_node()
    prepared.make_unions = lambda: union.make_all(unions, prepared.fuse, description)


def _mount(entry: dict[str, Any], bundle: str, linux: dict[str, Any]) -> Mount:
    where, kind = entry["destination"], entry.get("type") or ""
    options = Options(entry.get("options") or [])
    own = namespaces(linux)
    options.idmap = options.idmap or bool(entry.get("uidMappings") or entry.get("gidMappings"))
    if (options.bind or kind == "bind") and not options.remount:
        bind = Bind(where, os.path.join(bundle, entry.get("source") or ""), options)
        bind.maps = entry.get("uidMappings"), entry.get("gidMappings")
        return bind
    if kind == "unionfs" and not options.remount:
        return _union(where, os.path.join(bundle, entry.get("source") or ""), options)
    if options.idmap:
        raise Failure(f"mount on {where}: only a bind can be idmapped", "add the option bind or rbind")
    if options.remount or kind in ("", "none"):
        return Change(where, "", "", options)
    if kind in ("cgroup", "cgroup2"):
        return Cgroup(where, options, own_namespace="cgroup" in own)
    return Filesystem(where, kind, entry.get("source") or "", options, own_processes="pid" in own)


def checked_sysctl(settings: dict[str, str], config: Config) -> Callable[[dict[str, str]], None]:
    """Return what writes the settings; Failure for one that this container may not have."""
    from runtime.oci.rootfs import sysctl

    own = set(namespaces(config.get("linux") or {}))
    for key, value in settings.items():
        reason = sysctl.refusal(key, own)
        if reason:
            raise Failure(f"linux.sysctl: {key} {reason}")
        if sysctl.path_of(key) == "kernel/domainname" and config.get("domainname", value) != value:
            raise Failure(f"linux.sysctl: {key} is not the config's domainname", "remove one of them")
    return sysctl.write_all


def _open_mapped(binds: list[Bind], config: Config) -> None:
    """Open the sources of idmapped binds; equal maps share a user namespace."""
    if not any(bind.options.idmap for bind in binds):
        return
    from runtime.oci.rootfs import idmap

    linux = config.get("linux") or {}
    container = idmap.ranges(linux.get("uidMappings") or []), idmap.ranges(linux.get("gidMappings") or [])
    known: dict[object, int] = {}
    try:
        for bind in binds:
            if not bind.options.idmap:
                continue
            with Step(
                f"{bind.title()}, idmapped",
                "the kernel and the filesystem must support it, and only root may",
            ):
                bind.tree = idmap.open_mapped(bind, _namespace(bind, container, namespaces(linux), known))
    finally:
        for fd in known.values():
            os.close(fd)


def _namespace(bind: Bind, container: Any, own: dict[str, str], known: dict[object, int]) -> int:
    """Return a user namespace with the bind's maps, or else the container's. It is in `known` then, which owns it."""
    from runtime.oci.rootfs import idmap

    users, groups = bind.maps
    maps = container
    if bind.options.idmap_text:
        maps = idmap.parse(bind.options.idmap_text, container)
    elif users or groups:
        maps = idmap.ranges(users or []), idmap.ranges(groups or [])
    if not maps[0] and own.get("user"):
        known.setdefault("joined", -1)
        if known["joined"] < 0:
            known["joined"] = os.open(own["user"], os.O_RDONLY | os.O_CLOEXEC)
        return known["joined"]
    if not maps[0] or not maps[1]:
        raise Failure(
            f"{bind.title()}: idmap without ids",
            "give the mount uidMappings and gidMappings, or the container",
        )
    if maps not in known:
        known[maps] = idmap.make_namespace(maps)
    return known[maps]


def _make_nodes(prepared: Prepared, linux: dict[str, Any]) -> None:
    """Make the config's devices here, as the root of a user namespace may not."""
    listed = {os.path.normpath(entry["path"]) for entry in linux.get("devices") or ()}
    if listed and prepared.devices is not None:
        prepared.made_devices = [
            device for device in prepared.devices if os.path.normpath(device.path) in listed
        ]
        ids = linux.get("uidMappings") or [], linux.get("gidMappings") or []
        with Step("make devices for the user namespace"):
            prepared.nodes = devices.make_nodes(prepared.made_devices, ids)


def _open_hidden(binds: list[Bind]) -> None:
    """Open the sources that the container's root may not reach, since it is nobody on the host."""
    for bind in binds:
        if not _is_reachable(bind.source):
            with Step(bind.title()):
                bind.tree = bind.open_source()


def _is_reachable(path: str) -> bool:
    """Tell whether every directory on the way lets anybody pass."""
    while path not in ("", "/"):
        path = os.path.dirname(path)
        try:
            if not os.stat(path or ".").st_mode & stat.S_IXOTH:
                return False
        except OSError:
            return True  # the bind will say what is wrong
    return True
