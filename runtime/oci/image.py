# SPDX-License-Identifier: Apache-2.0
"""Start faster: the code of the modules that commands import, in one file beside their .pyc files.

Python looks for every module in several places, opens and checks it: 0.15 ms each, and an ordinary `run` needs seventy.
Here each costs one stat(2): its source must still have the size and time it had. The file is made by the first command
that needs something which is not in it, and believed only if nobody but us or root can have written it.
"""

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

_VERSION = 2
_HERE = os.path.dirname(
    __file__
)  # an image that was copied with the package knows the sources it was copied from
_PACKAGES = ("runtime", "unionfs", "ctypes")
_WRITABLE_BY_OTHERS = 0o022
_OPTIMIZE = 2  # without docstrings, which are half of it

_Spec = type(sys.__spec__)


class _Image:
    """A finder for the import system, and a loader."""

    def __init__(self, path: str) -> None:
        self.path = path
        # Name → (file, is a package, st_mtime_ns, st_size, marshalled code), or None: there is nothing of it to keep.
        self.entries: dict[str, Any] = _read(path)
        self.missed: list[str] = []

    def find_spec(self, name: str, path: object = None, target: object = None) -> "Any":
        """Return the spec of a module that is in the image and unchanged, else None."""
        try:
            entry = self.entries[name]
        except KeyError:
            self.missed.append(name)
            return None
        if entry is None:
            return None
        file, is_package, changed, size, _ = entry
        try:
            status = os.stat(file)
        except OSError:
            return None
        if (status.st_mtime_ns, status.st_size) != (changed, size):
            self.missed.append(name)
            return None
        spec = _Spec(name, self, origin=file, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(file)]
        return spec

    def create_module(self, spec: object) -> None:
        """Leave it to the import system to make the module."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's code."""
        exec(marshal.loads(self.entries[module.__name__][4]), module.__dict__)

    def get_code(self, name: str) -> "CodeType":
        """Return the code of a module in the image."""
        code: CodeType = marshal.loads(self.entries[name][4])
        return code


_image: _Image | None = None


def use() -> None:
    """Look for modules in the image first; what is built into the interpreter goes before it anyway."""
    global _image
    _image = _Image(f"{_HERE}/__pycache__/unionrt.{sys.implementation.cache_tag}.image")
    sys.meta_path.insert(2, _image)


def complete() -> None:
    """Put what this process had to import by itself into the image. Does nothing if the image cannot be written."""
    if _image is None or sys.dont_write_bytecode:
        return
    missed = [name for name in _image.missed if name.partition(".")[0] in _PACKAGES]
    if not missed:
        return
    try:
        entries = {**_image.entries, **{name: _entry_of(name) for name in missed}}
        stage = f"{_image.path}.{os.getpid()}"
        with open(os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as stream:
            stream.write(marshal.dumps((_VERSION, _HERE, entries)))
        os.rename(stage, _image.path)
    except (OSError, SyntaxError, ValueError):
        return  # read-only, full, or just being edited: the next one may do it


def _entry_of(name: str) -> "Any":
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if not file or not file.endswith(".py"):
        return None
    status = os.stat(file)
    with open(file, "rb") as stream:
        source = stream.read()
    code = compile(source, file, "exec", dont_inherit=True, optimize=_OPTIMIZE)
    is_package = hasattr(module, "__path__")
    return file, is_package, status.st_mtime_ns, status.st_size, marshal.dumps(code)


def _read(path: str) -> "dict[str, Any]":
    """Return the entries of the image at `path`; none if it is missing, foreign, or of another version or place."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & _WRITABLE_BY_OTHERS:
                return {}
            version, here, entries = marshal.loads(stream.readall())
    except (OSError, EOFError, ValueError, TypeError):
        return {}
    return entries if (version, here) == (_VERSION, _HERE) else {}
