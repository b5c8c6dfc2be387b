# SPDX-License-Identifier: Apache-2.0
"""apt-get in a container: a minimal root in the layers, whose programs are the machine's, bound in read-only.

The root has a package database of its own with a base system in it, so that all that apt and dpkg do happens in the target:
copies of archives, unpacking with fsync and rename, links that keep old versions, the database. Packages are installed
under /opt, and one that is in a lower layer is upgraded.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bench.machine.client import Figures, MeasurementError, Place, expect
from bench.machine.layers import Layers, pattern
from bench.workloads.model import Figure, MiB, Workload
from bench.workloads.realwork.command import command, sample, timed
from bench.workloads.realwork.files import expect_files, prepared, size_of

_PACKAGES = 8
_FILES = 100  # a package
_INSTALLED = 300  # packages of the base system that only the database knows
_BASE = "unionbench-base"  # the package to upgrade
_HOST = ("usr", "bin", "sbin", "lib", "lib64")
_DIRECTORIES = (
    *_HOST, "dev", "proc", "tmp", "repository", "opt", "etc/apt/apt.conf.d", "etc/apt/preferences.d",
    "etc/apt/sources.list.d", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/log/apt",
    "var/lib/apt/lists/partial", "var/cache/apt/archives/partial",
)  # fmt: skip
_CONFIGURATION = b'APT::Sandbox::User "root";\nAcquire::Languages "none";\nDir::Log::Planner "";\n'


def _name(package: int) -> str:
    return f"unionbench-p{package}"


def _control(name: str, version: str, needed: list[str], status: str = "") -> str:
    depends = f"Depends: {', '.join(needed)}\n" if needed else ""
    return (
        f"Package: {name}\n{status}Version: {version}\nArchitecture: all\nMaintainer: unionbench <unionbench@localhost>\n"
        f"{depends}Description: files to install\n"
    )


def _files_of(name: str, version: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a package, with the names that they have in the root."""
    start = sum(f"{name} {version}".encode())
    for number in range(_FILES):
        yield f"opt/{name}/d{number % 7}/f{number}", pattern(start * _FILES + number, size_of(start + number))


def _wanted() -> dict[str, tuple[str, list[str]]]:
    """Return version and dependencies of each package of the repository."""
    found = {
        _name(p): ("1.0", [_name(n) for n in (2 * p + 1, 2 * p + 2) if n < _PACKAGES])
        for p in range(_PACKAGES)
    }
    found[_name(0)][1].append(f"{_BASE} (>= 2.0)")
    return {**found, _BASE: ("2.0", [])}


def _repository(scratch: Path) -> Path:
    """Return a repository: packages and their index."""
    return prepared(scratch, "repository", _make_repository)


def _make_repository(directory: Path) -> None:
    index: list[str] = []
    for name, (version, needed) in _wanted().items():
        archive = directory / f"{name}_{version}_all.deb"
        control = _control(name, version, needed)
        _make_package(archive, control, _files_of(name, version))
        data = archive.read_bytes()
        index.append(
            f"{control}Filename: ./{archive.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
    (directory / "Packages").write_text("\n".join(index))


def _make_package(archive: Path, control: str, files: Iterator[tuple[str, bytes]]) -> None:
    tree = Layers((archive.with_suffix(".tree"),))
    tree.write("DEBIAN/control", control.encode())
    for name, data in files:
        tree.write(name, data)
    words: list[str | Path] = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", tree.roots[0], archive]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise MeasurementError("failed", f"dpkg-deb: {done.stderr.strip()[-160:]}")


def _build_root(layers: Layers) -> None:
    """Make the root of a container whose image has the base system."""
    for name in _DIRECTORIES:
        layers.path(f"root/{name}/x").parent.mkdir(exist_ok=True)
    layers.write("root/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    layers.write("root/etc/group", b"root:x:0:\n")
    layers.write("root/etc/apt/sources.list", b"deb [trusted=yes] copy:/repository ./\n")
    layers.write("root/etc/apt/apt.conf.d/bench", _CONFIGURATION)
    installed = "Status: install ok installed\n"
    stanzas = [_control(_BASE, "1.0", [], installed)]
    for name, data in _files_of(_BASE, "1.0"):
        layers.write(f"root/{name}", data, 1)
    _write_list(layers, _BASE, [name for name, _ in _files_of(_BASE, "1.0")])
    for number in range(_INSTALLED):
        name = f"base-part{number}"
        stanzas.append(_control(name, "1.0", [], installed))
        _write_list(layers, name, [f"usr/share/{name}/file{n}" for n in range(25)])
    layers.write("root/var/lib/dpkg/status", "\n".join(stanzas).encode(), 1)


def _write_list(layers: Layers, name: str, files: list[str]) -> None:
    """Write the database's list of a package's files, all directories included."""
    parents = {str(parent) for file in files for parent in Path(file).parents if str(parent) != "."}
    lines = ["/.", *sorted(f"/{path}" for path in {*parents, *files})]
    layers.write(f"root/var/lib/dpkg/info/{name}.list", ("\n".join(lines) + "\n").encode(), 1)


@cache
def _container(root: str, repository: Path) -> list[str | Path]:
    """Return the words that run a command in the container."""
    words: list[str | Path] = ["bwrap", "--die-with-parent", "--unshare-pid", "--bind", root, "/"]
    for name in _HOST:
        words += ["--ro-bind-try", f"/{name}", f"/{name}"]
    words += ["--ro-bind", repository, "/repository", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    return [
        *words,
        "--setenv",
        "PATH",
        "/usr/sbin:/usr/bin:/sbin:/bin",
        "--setenv",
        "DEBIAN_FRONTEND",
        "noninteractive",
    ]


def _run(place: Place) -> Figures:
    inside = _container(place.path("root"), _repository(place.scratch))
    with timed(place) as updating:
        command(place, *inside, "apt-get", "update", "-q")
    with timed(place) as installing:
        command(place, *inside, "apt-get", "install", "-qy", _name(0))
    for name, (version, _) in _wanted().items():
        expect_files(place, "root", _files_of(name, version))
    query = command(
        place,
        *inside,
        "dpkg-query",
        "-W",
        "-f",
        "${Package} ${Version} ${db:Status-Abbrev}\n",
        "unionbench-*",
    )
    wanted = {f"{name} {version} ii " for name, (version, _) in _wanted().items()}
    expect(set(query.decode().splitlines()) == wanted, "dpkg does not know of all packages")
    said = command(place, *inside, "dpkg", "--audit", *_wanted())
    expect(not said, "dpkg finds packages half installed")
    expect(not list((place.mount / "root/opt").rglob("*.dpkg-*")), "dpkg left temporary files behind")
    return {"apt-update": sample(updating, 1), "apt-install": sample(installing, len(_wanted()))}


WORKLOADS = (
    Workload("apt", "realwork", (
        Figure("apt-update", "apt-get update in a container", state="local repository"),
        Figure("apt-install", f"apt-get install of {_PACKAGES} packages, upgrade of one", state="to the disk")),
        _run, _build_root, size=32 * MiB, needs=frozenset({"replacing"}), limit=180, seconds=3,
        prepare=_repository,
        programs=(("bwrap", "bubblewrap"), ("apt-get", "apt"), ("dpkg-deb", "dpkg"))),
)  # fmt: skip
