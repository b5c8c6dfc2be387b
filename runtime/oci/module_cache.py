# SPDX-License-Identifier: Apache-2.0
"""Start faster: the code of all modules that a command needs, in one file, put in place without the import system.

Python looks for every module in several places, opens it, checks it, and locks it meanwhile: 0.1 ms each, and an ordinary
`run` needs seventy. A *cache file* is named after a module, and the one that was loaded before it. It holds the code of
that module and of all of ours which it is the first to import, each after those that it needs itself. It counts as long as it
comes from this version of Python and every source has the size and the time it had; else Python imports as ever, and the
file is made anew if we may write it. It is believed only if nobody can have written it but root, us, and who owns this source.
"""

# Not `from __future__ import annotations`: this is the one module that is imported the slow way, and that would be another.

import marshal
import os
import stat
import sys
from _frozen_importlib_external import MAGIC_NUMBER
from _imp import source_hash  # what .pyc files have, if asked for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    # name, source (a relative path: below _TOP), whether it is a package, st_mtime_ns, st_size, code
    Entry = tuple[str, str, bool, int, int, CodeType]

_HEADER = b"unionrt modules 5\n" + MAGIC_NUMBER
_CHECKSUM = 8  # bytes
_HERE = os.path.dirname(__file__)
_TOP = os.path.dirname(os.path.dirname(_HERE)) + "/"
_PACKAGES = ("runtime", "unionfs", "__future__", "struct")  # ours, and what all of them import
_WRITABLE_BY_OTHERS = 0o022
_OPTIMIZE = 2  # without docstrings, which are half of it

_Module = type(sys)
_Spec = type(sys.__spec__)


class _Progress:
    """What was loaded last, by which the next cache file is named, and how many modules there were then."""

    on = False  # not where somebody imports our modules into a program of his own
    last = ""
    count = 0


def use() -> None:
    """Use the cache from now on."""
    _Progress.on = True
    _Progress.count = len(sys.modules)


def stop() -> None:
    """Read no cache file any more: in a container's root it would be the container's file."""
    _Progress.on = False


def load(name: str) -> None:
    """Import the module `name` and what it needs; what is there already stays."""
    if name in sys.modules:
        return
    if not _Progress.on:
        __import__(name)
        return
    path = f"{_HERE}/__pycache__/{name}-{_Progress.last}.{sys.implementation.cache_tag}.modules"
    if not _put(_read(path)):
        between = _ours_after(_Progress.count)
        count = len(sys.modules)
        __import__(name)
        if not between:  # what is seldom imported must not be missing from a file that others use
            _make(path, _ours_after(count))
    _Progress.last, _Progress.count = name.rpartition(".")[2], len(sys.modules)


def _ours_after(count: int) -> "list[ModuleType]":
    """Return our modules without the first `count` of all; the import system puts one at the end when it is complete."""
    modules = list(sys.modules.values())[count:]
    return [module for module in modules if module.__name__.partition(".")[0] in _PACKAGES]


def _put(entries: "list[Entry]") -> bool:
    """Put the modules in place; False, and nothing is there, if a source has changed or the code is damaged."""
    names = []
    try:
        new = [entry for entry in entries if entry[0] not in sys.modules]
        if not all(map(_is_current, new)):
            return False
        # All before any of their code runs: a package can be imported while its parts are not yet complete.
        for name, source, is_package, _, _, _ in new:
            names.append(name)
            sys.modules[name] = _module(name, _place(source), is_package)
        for name, _, _, _, _, code in new:
            module = sys.modules[name]
            parent, _, last = name.rpartition(".")
            if parent:
                __import__(parent)
                setattr(sys.modules[parent], last, module)
            exec(code, module.__dict__)
    except Exception:  # whatever is wrong: the import that follows tells, unless it was the cache file
        for name in names:
            del sys.modules[name]
        return False
    return bool(entries)


def _is_current(entry: "Entry") -> bool:
    _, source, _, changed, size, _ = entry
    try:
        status = os.stat(_place(source))
    except OSError:
        return False
    return status.st_mtime_ns == changed and status.st_size == size


def _place(source: str) -> str:
    return source if source[0] == "/" else _TOP + source


def _module(name: str, source: str, is_package: bool) -> "ModuleType":
    module = _Module(name)
    spec = _Spec(name, None, origin=source, is_package=is_package)
    module.__spec__, module.__file__ = spec, source
    module.__package__ = name if is_package else name.rpartition(".")[0]
    if is_package:
        module.__path__ = spec.submodule_search_locations = [source.rpartition("/")[0]]
    return module


def _make(path: str, modules: "list[ModuleType]") -> None:
    """Write a cache file of `modules`. Does nothing if it cannot be written."""
    if sys.dont_write_bytecode:
        return
    stage = f"{path}.{os.getpid()}"
    try:
        fd = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "wb") as stream:
                data = marshal.dumps([_entry(module) for module in modules])
                stream.write(_HEADER + _checksum(data) + data)
                stream.flush()
                os.fsync(fd)  # else its name could outlive a power failure, and what is in it not
            os.rename(stage, path)
        except BaseException:
            os.unlink(stage)
            raise
    except (OSError, SyntaxError, ValueError):
        return  # read-only, full, or just being edited: the next one may do it


def _entry(module: "ModuleType") -> "Entry":
    path = str(module.__file__)
    source = path.removeprefix(_TOP)
    status = os.stat(path)
    with open(path, "rb") as stream:
        code = compile(stream.read(), source, "exec", dont_inherit=True, optimize=_OPTIMIZE)
    return module.__name__, source, hasattr(module, "__path__"), status.st_mtime_ns, status.st_size, code


def _read(path: str) -> "list[Entry]":
    """Return the entries of the cache file at `path`; none if it is missing, foreign, damaged, or of another version."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        status = os.fstat(fd)
        if not _is_ours(status):
            return []
        data = memoryview(os.read(fd, status.st_size))
        start = len(_HEADER) + _CHECKSUM
        if data[:start] != _HEADER + _checksum(data[start:]):
            return []  # what is not quite byte code can kill the interpreter
        entries: list[Entry] = marshal.loads(data[start:])
        return entries
    except (OSError, EOFError, ValueError, TypeError):
        return []
    finally:
        os.close(fd)


def _checksum(data: "bytes | memoryview") -> bytes:
    return source_hash(0, data)


def _is_ours(status: os.stat_result) -> bool:
    """Tell whether nobody can have written it who could not have written this source as well."""
    if not stat.S_ISREG(status.st_mode) or status.st_mode & _WRITABLE_BY_OTHERS:
        return False
    # In a user namespace the owner of an installation is nobody we know.
    return status.st_uid in (0, os.geteuid()) or status.st_uid == os.stat(__file__).st_uid
