# SPDX-License-Identifier: Apache-2.0
"""The files that hold the code of the program's modules: made by use, never believed when they may be somebody else's or old."""

import os
import shutil
import subprocess
import sys
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
    (found,) = (copy / "runtime/oci/__pycache__").glob("runtime.oci.commands.features-*.image")
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


START = """
import sys
sys.path.append(sys.argv[1])
from runtime.oci import image
image.use()
"""


def _twice(copy: Path, code: str) -> list[str]:
    """Return what `code` prints with images to be made, and with images."""
    command = [sys.executable, "-ISc", START + code, str(copy)]
    return [subprocess.run(command, capture_output=True, text=True).stdout for _ in range(2)]


def test_image_is_used(copy: Path) -> None:
    """With an image its modules do not come through the import system; a module that it lacks does."""
    outputs = _twice(
        copy,
        """
image.bring("runtime.oci.program")
image.bring("runtime.oci.commands.features")
import runtime.oci.help
from runtime.oci.commands import features
print(sys.modules["runtime.oci.program"].__loader__ is None, features.__loader__ is None)
print(runtime.oci.help.__loader__ is None, features.COMMAND.name)
""",
    )
    assert outputs == ["False False\nFalse features\n", "True True\nFalse features\n"]


def test_image_of_a_package_behaves_like_imports(copy: Path) -> None:
    """A name that a package takes from its part stands for the same thing as after an ordinary import."""
    outputs = _twice(
        copy,
        """
image.bring("runtime.oci.rootfs")
import runtime.oci.rootfs.masks
from runtime.oci import rootfs
assert rootfs.prepare is sys.modules["runtime.oci.rootfs.prepare"].prepare
assert rootfs.masks is sys.modules["runtime.oci.rootfs.masks"]
assert list(rootfs.__path__) == [sys.argv[1] + "/runtime/oci/rootfs"]
print(sys.modules["runtime.oci.rootfs.prepare"].__loader__ is None)
""",
    )
    assert outputs == ["False\n", "True\n"]


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
