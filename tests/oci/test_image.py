# SPDX-License-Identifier: Apache-2.0
"""The file that holds the code of the program's modules: made by use, never believed when it may be somebody else's or old."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.oci import PROGRAM, ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a checkout of the program's own, without any image."""
    for package in ("runtime", "unionfs"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "fuse")
        )
    return tmp_path


def _features(copy: Path) -> subprocess.CompletedProcess[str]:
    program = copy / PROGRAM.relative_to(ROOT)
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([program, "features"], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def _image(copy: Path) -> Path:
    (found,) = (copy / "runtime/oci/__pycache__").glob("unionrt.*.image")
    return found


def test_image_is_made_once_and_follows_the_sources(copy: Path) -> None:
    """The second start changes nothing; a changed source counts at once and is put in anew."""
    first = _features(copy).stdout
    made = _image(copy).stat()
    assert _features(copy).stdout == first
    assert _image(copy).stat().st_mtime_ns == made.st_mtime_ns
    source = copy / "runtime/oci/commands/features.py"
    source.write_text(source.read_text() + "\nprint('changed')\n")
    assert "changed" in _features(copy).stdout
    assert "changed" in _features(copy).stdout
    assert _image(copy).stat().st_ino != made.st_ino


@pytest.mark.parametrize("spoil", ["others may write", "cut short", "foreign"])
def test_image_that_cannot_be_trusted_is_not_used(copy: Path, spoil: str) -> None:
    """Writable by others, of another user, or damaged: the modules are imported as ever."""
    expected = _features(copy).stdout
    image = _image(copy)
    if spoil == "others may write":
        image.chmod(0o666)
    elif spoil == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        image.write_bytes(b"not marshalled")
        os.chown(image, 65534, 65534)
    else:
        os.truncate(image, 1000)
    assert _features(copy).stdout == expected


def test_image_that_cannot_be_written_is_no_failure(copy: Path) -> None:
    """Where __pycache__ cannot be made the program works without."""
    (copy / "runtime/oci/__pycache__").write_text("in the way")
    assert _features(copy).stdout


def test_image_of_another_copy_is_not_used(copy: Path) -> None:
    """Who copies a tree with its caches and changes the copy runs the copy."""
    _features(copy)
    other = copy / "other"
    other.mkdir()
    for package in ("runtime", "unionfs"):
        shutil.copytree(copy / package, other / package)
    source = other / "runtime/oci/commands/features.py"
    source.write_text(source.read_text() + "\nprint('changed')\n")
    assert "changed" in _features(other).stdout
