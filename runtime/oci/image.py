# SPDX-License-Identifier: Apache-2.0
"""Start faster: the code of all modules that a command needs, in one file, put in place without the import system.

Python looks for every module in several places, opens it, checks it, and locks it meanwhile: 0.1 ms each, and an ordinary
`run` needs seventy. An *image* is named after a module, and the one that was brought before it. It holds the code of that module
and of all of ours which it is the first to import, each after those that it needs itself. It counts as long as every source
has the size and the time it had; else Python imports as ever and the image is made anew. It is believed only if nobody but us
or root can have written it.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    # name, source, whether it is a package, st_mtime_ns, st_size, code
    Entry = tuple[str, str, bool, int, int, CodeType]

_VERSION = 3
_HERE = os.path.dirname(__file__)  # an image that was copied with the package knows where it was made
_PACKAGES = ("runtime", "unionfs")
_WRITABLE_BY_OTHERS = 0o022
_OPTIMIZE = 2  # without docstrings, which are half of it

_Module = type(sys)
_Spec = type(sys.__spec__)


class _Progress:
    """What was brought last, by which the next image is named, and how many modules there were then."""

    on = False  # not where somebody imports our modules into a program of his own
    last = ""
    count = 0


def use() -> None:
    """Use images from now on."""
    _Progress.on = True
    _Progress.count = len(sys.modules)


def bring(name: str) -> None:
    """Import the module `name` and what it needs; what is there already stays."""
    if name in sys.modules:
        return
    if not _Progress.on:
        __import__(name)
        return
    path = f"{_HERE}/__pycache__/{name}-{_Progress.last}.{sys.implementation.cache_tag}.image"
    entries = _read(path)
    if entries and all(map(_is_current, entries)):
        _put(entries)
    else:
        between = _ours_after(_Progress.count)
        count = len(sys.modules)
        __import__(name)
        if not between:  # what is seldom imported must not be missing from an image that others use
            _make(path, _ours_after(count))
    _Progress.last, _Progress.count = name.rpartition(".")[2], len(sys.modules)


def _ours_after(count: int) -> list[ModuleType]:
    """Return our modules without the first `count` of all; the import system puts one at the end when it is complete."""
    modules = list(sys.modules.values())[count:]
    return [module for module in modules if module.__name__.partition(".")[0] in _PACKAGES]


def _is_current(entry: Entry) -> bool:
    _, source, _, changed, size, _ = entry
    try:
        status = os.stat(source)
    except OSError:
        return False
    return status.st_mtime_ns == changed and status.st_size == size


def _put(entries: list[Entry]) -> None:
    """Make the modules, and only then run their code: a package can be imported while its parts are not yet complete."""
    new = [entry for entry in entries if entry[0] not in sys.modules]
    for name, source, is_package, _, _, _ in new:
        module = _Module(name)
        spec = _Spec(name, None, origin=source, is_package=is_package)
        module.__spec__, module.__file__ = spec, source
        module.__package__ = name if is_package else name.rpartition(".")[0]
        if is_package:
            module.__path__ = spec.submodule_search_locations = [source.rpartition("/")[0]]
        sys.modules[name] = module
    for name, _, _, _, _, code in new:
        module = sys.modules[name]
        parent, _, last = name.rpartition(".")
        if parent:
            __import__(parent)
            setattr(sys.modules[parent], last, module)
        exec(code, module.__dict__)


def _make(path: str, modules: list[ModuleType]) -> None:
    """Write an image of `modules`. Does nothing if it cannot be written."""
    if sys.dont_write_bytecode:
        return
    stage = f"{path}.{os.getpid()}"
    try:
        with open(os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as stream:
            stream.write(marshal.dumps((_VERSION, _HERE, [_entry(module) for module in modules])))
        os.rename(stage, path)
    except (OSError, SyntaxError, ValueError):
        return  # read-only, full, or just being edited: the next one may do it


def _entry(module: ModuleType) -> Entry:
    source = str(module.__file__)
    status = os.stat(source)
    with open(source, "rb") as stream:
        code = compile(stream.read(), source, "exec", dont_inherit=True, optimize=_OPTIMIZE)
    return module.__name__, source, hasattr(module, "__path__"), status.st_mtime_ns, status.st_size, code


def _read(path: str) -> list[Entry]:
    """Return the entries of the image at `path`; none if it is missing, foreign, or of another version or place."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return []
    try:
        status = os.fstat(fd)
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & _WRITABLE_BY_OTHERS:
            return []
        version, here, entries = marshal.loads(os.read(fd, status.st_size))
    except (OSError, EOFError, ValueError, TypeError):
        return []
    finally:
        os.close(fd)
    return entries if (version, here) == (_VERSION, _HERE) else []
