# SPDX-License-Identifier: Apache-2.0
"""Apply OCI layers, one after the other, to a plain directory: what the union of them has to look like."""

import os
import shutil
import stat
from pathlib import Path

from tests.support import tree

_MARK = b".wh."
_OPAQUE = b".wh..wh..opq"
_OURS = ("trusted.unionfs.", "user.unionfs.")


def flatten(layers: list[Path], target: Path) -> None:
    """Apply `layers`, the lowest first, to `target`, which is made when missing; links are kept within a layer."""
    target.mkdir(exist_ok=True)
    for layer in layers:
        _hide(os.fsencode(layer), os.fsencode(target))
        _copy_attributes(os.fsencode(layer), os.fsencode(target))
        _copy(os.fsencode(layer), os.fsencode(target), {})


def _remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _hide(layer: bytes, target: bytes) -> None:
    """Remove from `target` what the marks of the layer hide."""
    if not os.path.isdir(target) or os.path.islink(target):
        return
    names = os.listdir(layer)
    if _OPAQUE in names:
        for name in os.listdir(target):
            _remove(os.path.join(target, name))
    for name in names:
        path = os.path.join(layer, name)
        if name.startswith(_MARK + _MARK):
            continue
        if name.startswith(_MARK):
            _remove(os.path.join(target, name[len(_MARK) :]))
        elif stat.S_ISDIR(os.lstat(path).st_mode):
            _hide(path, os.path.join(target, name))


def _copy(layer: bytes, target: bytes, links: dict[tuple[int, int], bytes]) -> None:
    for name in sorted(os.listdir(layer)):
        if name.startswith(_MARK):
            continue
        source, destination = os.path.join(layer, name), os.path.join(target, name)
        status = os.lstat(source)
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            if not os.path.isdir(destination) or os.path.islink(destination):
                _remove(destination)
                os.mkdir(destination)
            _copy(source, destination, links)
        elif identity in links:
            _remove(destination)
            os.link(links[identity], destination, follow_symlinks=False)
            continue
        else:
            _remove(destination)
            _copy_entry(source, destination, status)
            links[identity] = destination
        _copy_attributes(source, destination)


def _copy_entry(source: bytes, destination: bytes, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        shutil.copyfile(source, destination)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), destination)
    else:
        os.mknod(destination, status.st_mode, status.st_rdev)


def _copy_attributes(source: bytes, destination: bytes) -> None:
    status = os.lstat(source)
    os.lchown(destination, status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return
    os.chmod(destination, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(destination, follow_symlinks=False):
        os.removexattr(destination, name, follow_symlinks=False)
    for name in os.listxattr(source, follow_symlinks=False):
        if not name.startswith(_OURS):
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(destination, name, value, follow_symlinks=False)


def difference(expected: dict[str, tree.Entry], found: dict[str, tree.Entry]) -> str:
    """Return, one line each, where two snapshots differ; empty when they agree."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            lines.append(f"{name}:\n  expected {expected.get(name)}\n  found    {found.get(name)}")
    return "\n".join(lines)
