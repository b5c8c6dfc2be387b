# SPDX-License-Identifier: Apache-2.0
"""What is measured: the targets by name, and how they are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.targets.kernel import Copied, Overlay, Plain
from bench.targets.model import Target
from bench.targets.rootless import Rootless
from bench.targets.servers import FuseOverlayfs, Mergerfs, Unionfs, UnionfsFuse
from unionfs.errors import UserError

BASELINE = "overlay2"
ROOTLESS_BASELINE = "overlay2-rootless"
_DIRECT = Unionfs("unionfs", "direct")  # what `auto` chooses
_PYFUSE3 = Unionfs("unionfs-pyfuse3", "pyfuse3")
_ROOT = (
    Plain(),
    Overlay(BASELINE),
    Overlay("overlay2-userxattr", "userxattr,"),
    _DIRECT,
    Unionfs("unionfs-nopassthrough", "direct", "nopassthrough"),
    _PYFUSE3,
    FuseOverlayfs(),
    UnionfsFuse(),
    Mergerfs(),
    Copied(),
)
_ROOTLESS = (
    Rootless(Overlay("overlay2-userxattr", "userxattr,"), "overlay2"),
    *(Rootless(target) for target in (_DIRECT, _PYFUSE3, FuseOverlayfs(), UnionfsFuse(), Mergerfs())),
)
TARGETS: dict[str, Target] = {target.name: target for target in (*_ROOT, *_ROOTLESS)}
# Left out of a full run for time, as they tell little more: measured when named.
_EXTRA = (
    "overlay2-userxattr",
    "unionfs-nopassthrough",  # unionfs-rootless shows it
    "vfs",
    "unionfs-pyfuse3-rootless",
    "unionfs-fuse-rootless",
    "mergerfs-rootless",
)
FULL = tuple(name for name in TARGETS if name not in _EXTRA)
QUICK = ("native", BASELINE, "unionfs", "unionfs-pyfuse3", "fuse-overlayfs", "unionfs-fuse", "mergerfs")


@dataclass(frozen=True, slots=True)
class Instance:
    """A target under a label of its own, so that one can run against itself; `slowdown` 0.2 makes it 20 % slower."""

    label: str
    target: Target
    slowdown: float = 0.0


def parse_targets(text: str, slow: dict[str, float], known: Mapping[str, Target]) -> list[Instance]:
    """Read `NAME[:LABEL],…` where the names are those of `known`; UserError names what is unknown."""
    chosen: list[Instance] = []
    for word in text.split(","):
        name, _, label = word.partition(":")
        if name not in known:
            raise UserError(f"unknown target {name!r}", f"known: {', '.join(known)}", status=2)
        chosen.append(Instance(label or name, known[name], slow.get(label or name, 0.0)))
    labels = [instance.label for instance in chosen]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f"target {label} is given twice", f"give it a name of its own: {label}:again", status=2
            )
    for label in slow.keys() - set(labels):
        raise UserError(
            f"--slow {label}: no such target in this run", f"targets: {', '.join(labels)}", status=2
        )
    return chosen
