# SPDX-License-Identifier: Apache-2.0
"""pip: install eight wheels with dependencies from a local directory, byte code included."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from bench.machine import programs
from bench.machine.client import Figures, Place, expect
from bench.machine.layers import pattern
from bench.workloads.model import Figure, MiB, Workload
from bench.workloads.realwork.command import command, sample, timed
from bench.workloads.realwork.files import expect_files, prepared, size_of

_WHEELS = 8
_FILES = 250  # a wheel
_MODULES = 3  # one file in so many is a Python module, the others are data
_WHEEL = b"Wheel-Version: 1.0\nGenerator: unionbench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def _name(wheel: int) -> str:
    return f"unionbench_w{wheel}"


def _module(seed: int) -> bytes:
    functions = [
        f"def f{i}(x):\n    y = x * {i}\n    return [y, '{seed} {i}']\n" for i in range(10 + seed % 60)
    ]
    return "\n\n".join(functions).encode()


def _files_of(wheel: int) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a wheel without its metadata."""
    yield f"{_name(wheel)}/__init__.py", b""
    for number in range(1, _FILES):
        seed = wheel * _FILES + number
        if number % _MODULES == 0:
            yield f"{_name(wheel)}/part{number % 5}/m{number}.py", _module(seed)
        else:
            yield f"{_name(wheel)}/data/d{number % 7}/f{number}.txt", pattern(seed, size_of(seed))


def _metadata(wheel: int) -> bytes:
    """Each wheel needs two others, so that pip has something to resolve."""
    needed = [_name(number) for number in (2 * wheel + 1, 2 * wheel + 2) if number < _WHEELS]
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {_name(wheel)}",
        "Version: 1.0",
        *(f"Requires-Dist: {n}" for n in needed),
    ]
    return ("\n".join(lines) + "\n").encode()


def _wheels(scratch: Path) -> Path:
    """Return a directory of wheels."""

    def make(directory: Path) -> None:
        for wheel in range(_WHEELS):
            _write_wheel(directory / f"{_name(wheel)}-1.0-py3-none-any.whl", wheel)

    return prepared(scratch, "wheels", make)


def _write_wheel(path: Path, wheel: int) -> None:
    """Write a wheel: a zip with a list of its files and their hashes (PEP 427)."""
    information = f"{_name(wheel)}-1.0.dist-info"
    record: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        files = [
            *_files_of(wheel),
            (f"{information}/METADATA", _metadata(wheel)),
            (f"{information}/WHEEL", _WHEEL),
        ]
        for name, data in files:
            archive.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}")
        archive.writestr(f"{information}/RECORD", "\n".join([*record, f"{information}/RECORD,,", ""]))


def _run(place: Place) -> Figures:
    pip = programs.find("pip3")
    assert pip is not None  # else the workload is left out
    with timed(place) as timing:
        command(
            place, pip, "install", "-q", "--no-index", "--find-links", _wheels(place.scratch), "--no-cache-dir",
            "--disable-pip-version-check", "--no-warn-script-location", "--prefix", place.path("python"), _name(0),
        )  # fmt: skip
    found = list((place.mount / "python").rglob("site-packages")) + list(
        (place.mount / "python").rglob("dist-packages")
    )
    expect(len(found) == 1, "pip installed nothing")
    directory = str(found[0].relative_to(place.mount))
    installed = sum(expect_files(place, directory, _files_of(wheel)) for wheel in range(_WHEELS))
    compiled = sum(1 for _ in found[0].rglob("*.pyc"))
    modules = sum(name.endswith(".py") for wheel in range(_WHEELS) for name, _ in _files_of(wheel))
    expect(compiled == modules, f"{compiled} of {modules} modules were compiled")
    return {"pip-install": sample(timing, installed + compiled)}


WORKLOADS = (
    Workload("pip", "realwork", (
        Figure("pip-install", f"pip install of {_WHEELS} wheels, {_WHEELS * _FILES:,} files", state="page cache"),),
        _run, size=64 * MiB, programs=(("pip3", "python3-pip"),), limit=180, seconds=3,
        prepare=_wheels),
)  # fmt: skip
