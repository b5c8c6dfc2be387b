# SPDX-License-Identifier: Apache-2.0
"""The root's steps as lines for people (`run --dry-run`)."""

from __future__ import annotations

from runtime.oci.failure import Step
from runtime.oci.rootfs.binds import Bind
from runtime.oci.rootfs.prepare import Prepared, check, checked_sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]


def plan(config: Config, bundle: str) -> list[str]:
    """Return what `build`, `enter` and `finish` will do, in order. Raises `Failure` for a config that says nonsense."""
    prepared = Prepared(config, bundle)
    check(prepared)
    for mount in prepared.mounts:
        if isinstance(mount, Bind):
            with Step(mount.title()):
                mount.check_source()
    checked_sysctl(prepared.sysctl, config)
    lines = [
        f"bind {prepared.root} on itself"
        if prepared.union is None
        else f"mount a union on {prepared.root}, served at {prepared.union.source}"
    ]
    lines += [
        _with_options(mount.title(), entry)
        for mount, entry in zip(prepared.mounts, config.get("mounts") or (), strict=True)
    ]
    lines += [f"make the device {device.path}" for device in prepared.devices or ()]
    lines.append(
        f"enter {prepared.root} as /"
        if prepared.has_namespace
        else f"change the root directory to {prepared.root}"
    )
    lines += [f"set {key} = {value}" for key, value in prepared.sysctl.items()]
    lines += [f"make {path} read-only" for path in prepared.read_only_paths]
    lines += [f"hide {path}" for path in prepared.masked]
    return [*lines, "make / read-only"] if prepared.read_only else lines


def _with_options(title: str, entry: dict[str, Any]) -> str:
    options = ",".join(entry.get("options") or ())
    return f"{title} ({options})" if options else title
