# SPDX-License-Identifier: Apache-2.0
"""The files that hold the code of the program's modules: made by use, never believed when they may be somebody else's or old."""

import marshal
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.oci import module_cache
from tests.support.oci import PROGRAM, ROOT

NOBODY = 65534
COMMAND = "runtime.oci.commands.features"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def copy() -> Iterator[Path]:
    """Return a checkout of the program's own, which everybody may read, without any cache file."""
    with tempfile.TemporaryDirectory(prefix="unionrt-test-") as name:
        top = Path(name).resolve()
        top.chmod(0o755)
        for package in ("runtime", "unionfs"):
            shutil.copytree(
                ROOT / package, top / package, ignore=shutil.ignore_patterns("__pycache__", "fuse")
            )
        yield top


def _features(copy: Path, *wrapper: str, **how: Any) -> str:
    """Return what the command `features` prints, which must print nothing else."""
    program = str(copy / PROGRAM.relative_to(ROOT))
    environment = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [*wrapper, program, "features"], capture_output=True, text=True, timeout=60, env=environment, **how
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _cache(copy: Path) -> Path:
    (found,) = (copy / "runtime/oci/__pycache__").glob(f"{COMMAND}-*.modules")
    return found


def _write(cache: Path, content: Any) -> None:
    """Write a cache file that is whole, whatever is in it."""
    data = marshal.dumps(content)
    cache.write_bytes(module_cache._HEADER + module_cache._checksum(data) + data)


def _plant(cache: Path, code: str = "print('planted')") -> None:
    """Put other code into a cache file: a way to see whether it is used."""
    data = cache.read_bytes()
    assert data.startswith(module_cache._HEADER)
    *before, last = marshal.loads(data[len(module_cache._HEADER) + module_cache._CHECKSUM :])
    *entry, _ = last
    _write(cache, [*before, (*entry, compile(code, "planted", "exec"))])


def test_cache_is_made_once_and_follows_the_sources(copy: Path) -> None:
    """The second start changes nothing; a changed source counts at once and is put in anew."""
    first = _features(copy)
    made = _cache(copy).stat()
    assert _features(copy) == first
    assert _cache(copy).stat().st_mtime_ns == made.st_mtime_ns
    source = copy / "runtime/oci/commands/features.py"
    source.write_text(source.read_text() + "\nprint('changed')\n")
    assert "changed" in _features(copy)
    assert "changed" in _features(copy)
    assert _cache(copy).stat().st_ino != made.st_ino
    source.unlink()
    assert "No module named" in subprocess.run(
        [copy / PROGRAM.relative_to(ROOT), "features"], capture_output=True, text=True, timeout=60
    ).stderr  # fmt: skip


START = """
import sys
sys.path.append(sys.argv[1])
from runtime.oci import module_cache
module_cache.use()
"""


def _run(copy: Path, code: str) -> str:
    command = [sys.executable, "-ISc", START + code, str(copy)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def _twice(copy: Path, code: str) -> list[str]:
    """Return what `code` prints with an empty cache, and with a full one."""
    return [_run(copy, code), _run(copy, code)]


def test_cache_is_used(copy: Path) -> None:
    """From a cache file modules do not come through the import system; a module that it lacks does."""
    outputs = _twice(
        copy,
        """
module_cache.load("runtime.oci.program")
module_cache.load("runtime.oci.commands.features")
import runtime.oci.help
from runtime.oci.commands import features
print(sys.modules["runtime.oci.program"].__loader__ is None, features.__loader__ is None)
print(runtime.oci.help.__loader__ is None, features.COMMAND.name)
""",
    )
    assert outputs == ["False False\nFalse features\n", "True True\nFalse features\n"]


def test_cache_of_a_package_behaves_like_imports(copy: Path) -> None:
    """A name that a package takes from its part stands for the same thing as after an ordinary import."""
    outputs = _twice(
        copy,
        """
module_cache.load("runtime.oci.rootfs")
import runtime.oci.rootfs.masks
from runtime.oci import rootfs
assert rootfs.prepare is sys.modules["runtime.oci.rootfs.prepare"].prepare
assert rootfs.masks is sys.modules["runtime.oci.rootfs.masks"]
assert list(rootfs.__path__) == [sys.argv[1] + "/runtime/oci/rootfs"]
print(sys.modules["runtime.oci.rootfs.prepare"].__loader__ is None)
""",
    )
    assert outputs == ["False\n", "True\n"]


def test_no_cache_is_read_when_imports_are_forbidden(copy: Path) -> None:
    """A process that is about to enter a container's root reads no cache there: it would be the container's file."""
    load = 'module_cache.load("runtime.oci.imports"); import runtime.oci.imports as imports\n'
    help = 'module_cache.load("runtime.oci.help"); print(sys.modules["runtime.oci.help"].__loader__)\n'
    assert _twice(copy, load + help)[1] == "None\n"
    outcome = _run(
        copy,
        f"""
{load}
imports.forbid()
try:
    {help}
except ModuleNotFoundError:
    print("forbidden")
""",
    )
    assert outcome == "forbidden\n"


def _cut(cache: Path) -> None:
    os.truncate(cache, 1000)


def _empty(cache: Path) -> None:
    os.truncate(cache, 0)


def _zero(cache: Path) -> None:
    size = cache.stat().st_size
    os.truncate(cache, 0)
    os.truncate(cache, size)


def _flip_a_bit(cache: Path) -> None:
    data = bytearray(cache.read_bytes())
    data[len(data) // 2] ^= 1
    cache.write_bytes(data)


def _other_python(cache: Path) -> None:
    _plant(cache)
    header = module_cache._HEADER
    cache.write_bytes(header[:-4] + bytes(4) + cache.read_bytes()[len(header) :])


def _raise(cache: Path) -> None:
    _plant(cache, "raise RuntimeError")


def _other_shape(cache: Path) -> None:
    _write(cache, [1, ("name", 2)])


def _other_object(cache: Path) -> None:
    _write(cache, 17)


def _open_to_others(cache: Path) -> None:
    _plant(cache)
    cache.chmod(0o666)


def _open_to_group(cache: Path) -> None:
    _plant(cache)
    cache.chmod(0o664)


def _link(cache: Path) -> None:
    _plant(cache)
    cache.symlink_to(cache.rename(cache.with_suffix(".elsewhere")))


def _directory(cache: Path) -> None:
    cache.unlink()
    cache.mkdir()


def _fifo(cache: Path) -> None:
    cache.unlink()
    os.mkfifo(cache)


def test_cache_is_believed(copy: Path) -> None:
    """The tests below mean something: code put into a cache file by its owner is executed."""
    _features(copy)
    _plant(_cache(copy), "print('planted', flush=True); raise SystemExit")
    assert "planted" in subprocess.run(
        [copy / PROGRAM.relative_to(ROOT), "features"], capture_output=True, text=True, timeout=60
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    "spoil",
    [
        _cut, _empty, _zero, _flip_a_bit, _other_python, _raise, _other_shape, _other_object,
        _open_to_others, _open_to_group, _link, _directory, _fifo,
    ],
)  # fmt: skip
def test_cache_that_cannot_be_trusted_is_not_used(copy: Path, spoil: Callable[[Path], None]) -> None:
    """Damaged, of another Python, writable by others, not even a file: the modules are imported as ever, without a word."""
    expected = _features(copy)
    spoil(_cache(copy))
    assert _features(copy) == expected
    assert _features(copy) == expected


@needs_root
def test_cache_of_another_user_is_not_used(copy: Path) -> None:
    """Who is neither root, nor us, nor the owner of the sources could do with us what he likes."""
    expected = _features(copy)
    _plant(_cache(copy))
    os.chown(_cache(copy), NOBODY, NOBODY)
    assert _features(copy) == expected
    assert _cache(copy).stat().st_uid == 0


@needs_root
def test_cache_that_root_has_made_is_used_by_all(copy: Path) -> None:
    """In an installation of root's nobody else can make them; those that are there serve everybody, in a user namespace too."""
    _features(copy)
    _plant(_cache(copy), "print('planted', flush=True); raise SystemExit")
    program = str(copy / PROGRAM.relative_to(ROOT))
    for wrapper in ([], ["unshare", "--user", "--map-root-user"]):
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *wrapper, program]
        done = subprocess.run([*command, "features"], capture_output=True, text=True, timeout=60)
        if wrapper and "unshare" in done.stderr:
            pytest.skip("ordinary users may not make user namespaces here")
        assert done.stdout == "planted\n", done.stderr


@needs_root
def test_program_works_where_no_cache_can_be_made(copy: Path) -> None:
    """For an ordinary user of an installation without them; nothing is tried that leaves something."""
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    assert _features(copy, *user)
    assert not list(copy.rglob("__pycache__"))
    (copy / "runtime/oci/__pycache__").mkdir()
    assert _features(copy, *user)
    assert not list((copy / "runtime/oci/__pycache__").iterdir())


def test_cache_that_cannot_be_written_is_no_failure(copy: Path) -> None:
    """Where __pycache__ cannot be made the program works without."""
    (copy / "runtime/oci/__pycache__").write_text("in the way")
    assert _features(copy)


def test_cache_that_cannot_be_finished_leaves_nothing(copy: Path) -> None:
    """A full disk takes the beginning of a file only."""
    expected = _features(copy)
    for path in (copy / "runtime/oci/__pycache__").glob("*.modules"):
        path.unlink()
    most = 1000
    assert (
        _features(copy, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
        == expected
    )
    assert not [path for path in (copy / "runtime/oci/__pycache__").iterdir() if ".modules" in path.name]


def test_cache_goes_along_with_a_copy(copy: Path) -> None:
    """Who copies a tree with its caches and changes the copy runs the copy; what is as it was need not be made again."""
    expected = _features(copy)
    other = copy / "other"
    other.mkdir()
    for package in ("runtime", "unionfs"):
        shutil.copytree(copy / package, other / package)
    made = _cache(other).stat().st_ino
    assert _features(other) == expected
    assert _cache(other).stat().st_ino == made
    source = other / "runtime/oci/commands/features.py"
    source.write_text(source.read_text() + "\nprint('changed')\n")
    assert "changed" in _features(other)
