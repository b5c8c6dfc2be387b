# SPDX-License-Identifier: Apache-2.0
"""A container image made without any registry: one layer in a docker archive, which every engine can load."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

NAME = "localhost/unionrt-test:latest"

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def _layer(root: Path) -> bytes:
    """Pack a root file system; everything belongs to root and is of one time, so that equal roots are equal layers."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = 0
        return entry

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.iterdir()):
            archive.add(path, path.name, filter=plain)
    return packed.getvalue()


def write(root: Path, archive: Path) -> None:
    """Write an image named NAME, whose root is a copy of `root`, into the file `archive`."""
    layer = _layer(root)
    machine = os.uname().machine
    config = {
        "architecture": _MACHINES.get(machine, machine),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    description = json.dumps(config).encode()
    name = hashlib.sha256(description).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    files = {name: description, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(archive, "w") as packed:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
