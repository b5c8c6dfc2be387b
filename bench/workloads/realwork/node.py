# SPDX-License-Identifier: Apache-2.0
"""npm: install a project of 60 packages from tarballs and a lock file, offline."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from bench.machine.client import Figures, Place, expect
from bench.machine.layers import pattern
from bench.workloads.model import Figure, MiB, Workload
from bench.workloads.realwork.command import command, sample, timed
from bench.workloads.realwork.files import count_files, expect_files, prepared, size_of

_PACKAGES = 60
_FILES = 40  # a package
_MADE = 500_000_000  # npm refuses tarballs from before 1980


def _name(package: int) -> str:
    return f"unionbench-p{package:02d}"


def _needed(package: int) -> dict[str, str]:
    return {_name(n): "1.0.0" for n in (2 * package + 1, 2 * package + 2) if n < _PACKAGES}


def _files_of(package: int) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a package."""
    description = {
        "name": _name(package),
        "version": "1.0.0",
        "main": "index.js",
        "dependencies": _needed(package),
    }
    yield "package.json", json.dumps(description).encode()
    yield "index.js", f"module.exports = {package};\n".encode()
    for number in range(2, _FILES):
        seed = package * _FILES + number
        yield f"lib/d{number % 5}/f{number}.js", pattern(seed, size_of(seed))


def _tarballs(scratch: Path) -> Path:
    """Return a directory of tarballs as `npm pack` makes them."""

    def make(directory: Path) -> None:
        for package in range(_PACKAGES):
            with tarfile.open(directory / f"{_name(package)}.tgz", "w:gz", compresslevel=1) as archive:
                for name, data in _files_of(package):
                    member = tarfile.TarInfo(f"package/{name}")
                    member.size, member.mtime = len(data), _MADE
                    archive.addfile(member, io.BytesIO(data))

    return prepared(scratch, "tarballs", make)


def _write_project(directory: Path, tarballs: Path) -> None:
    """Write what npm installs from: the packages wanted, and the lock file that says where each comes from."""
    specs = {
        _name(n): "file:" + os.path.relpath(tarballs / f"{_name(n)}.tgz", directory) for n in range(_PACKAGES)
    }
    project = {"name": "app", "version": "1.0.0", "dependencies": specs}
    locked: dict[str, object] = {"": project}
    for number, (name, spec) in enumerate(specs.items()):
        digest = base64.b64encode(hashlib.sha512((tarballs / f"{name}.tgz").read_bytes()).digest()).decode()
        locked[f"node_modules/{name}"] = {
            "version": "1.0.0", "resolved": spec, "integrity": f"sha512-{digest}", "dependencies": _needed(number),
        }  # fmt: skip
    lock = {"name": "app", "version": "1.0.0", "lockfileVersion": 3, "requires": True, "packages": locked}
    directory.mkdir()
    (directory / "package.json").write_text(json.dumps(project, indent=2) + "\n")
    (directory / "package-lock.json").write_text(json.dumps(lock, indent=2) + "\n")


def _run(place: Place) -> Figures:
    _write_project(place.mount / "app", _tarballs(place.scratch))
    with timed(place) as timing:
        # npm's own cache is a user's, hence in the target; it is empty, the tarballs are what is local.
        command(
            place, "npm", "install", "--prefix", "app", "--cache", place.path("npm-cache"), "--offline", "--no-audit",
            "--no-fund", "--ignore-scripts", "--logs-max=0", "--update-notifier=false", "--loglevel=error",
        )  # fmt: skip
    installed = sum(
        expect_files(place, f"app/node_modules/{_name(package)}", _files_of(package))
        for package in range(_PACKAGES)
    )
    found = count_files(place.mount / "app/node_modules")
    expect(
        found == installed + 1, f"{found} files are installed instead of {installed + 1}"
    )  # and npm's own list
    return {"npm-install": sample(timing, installed)}


WORKLOADS = (
    Workload("npm", "realwork", (
        Figure("npm-install", f"npm install of {_PACKAGES} packages, {_PACKAGES * _FILES:,} files", state="page cache"),),
        _run, size=64 * MiB, programs=(("npm", "npm"),), limit=180, seconds=3.5, prepare=_tarballs),
)  # fmt: skip
