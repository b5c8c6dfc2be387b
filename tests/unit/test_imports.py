# SPDX-License-Identifier: Apache-2.0
"""The direction of imports: bench → runtime → unionfs; commands → server → session → filesystem → core; no cycles."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("unionfs", "runtime", "bench")
# Outermost first; what is not named is core, which knows none of them.
LAYERS = (
    {"unionfs.cli", "unionfs.mount_helper", "unionfs.overlay_cli", "unionfs.pytest_plugin", "unionfs.api"},
    {"unionfs.server", "unionfs.control"},
    {"unionfs.fuse.pyfuse3_session", "unionfs.fuse.direct"},
    {"unionfs.filesystem"},
)
# What a program that must start fast, and a core that runs without a mount, cannot afford.
EVENT_LOOP = {"trio", "pyfuse3", "pyroute2"}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _modules() -> dict[str, Path]:
    return {_module(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _import_nodes(node: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    """Return every import, also those inside functions, but not what only a type checker sees."""
    found: list[ast.Import | ast.ImportFrom] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            found.append(child)
        elif not _is_type_checking(child):
            found += _import_nodes(child)
    return found


@cache
def _imports(module: str) -> frozenset[str]:
    """Return the modules that `module` imports, ours as far down as they are modules."""
    path = _modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in _import_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            parent = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parent, *filter(None, [node.module])])
        inner = {f"{base}.{alias.name}" for alias in node.names} & _modules().keys()
        found |= inner
        if len(inner) < len(node.names):
            found.add(base)
    return frozenset(found)


def test_imports_packages_point_one_way() -> None:
    """unionfs knows nothing of runtime, runtime nothing of bench."""
    for module in _modules():
        rank = PACKAGES.index(module.split(".")[0])
        for imported in _imports(module):
            top = imported.split(".")[0]
            assert top != "tests", f"{module} imports tests"
            if top in PACKAGES:
                assert PACKAGES.index(top) <= rank, f"{module} imports {imported}"


def _layer(module: str) -> int:
    for number, names in enumerate(LAYERS):
        if module in names:
            return number
    return len(LAYERS)


def test_imports_layers_point_inward() -> None:
    """Nobody imports a layer further out than himself; commands are imported by nobody below them."""
    below = {"unionfs.check", "unionfs.commit", "unionfs.statistics", "unionfs.watch"}
    for module in _modules():
        if not module.startswith("unionfs.") or module in below:
            continue
        for imported in _imports(module):
            if module not in LAYERS[0] and imported.startswith("unionfs"):
                core = _layer(module) == len(LAYERS)
                allowed = _layer(imported) >= _layer(module) if core else imported not in LAYERS[0]
                helper = module.rpartition(".")[2].endswith(("cli", "command", "commands"))
                assert allowed or helper or _is_command(module), f"{module} imports {imported}"


def _is_command(module: str) -> bool:
    """Tell whether only commands (or nobody) import this module: then it is one itself."""
    users = [other for other in _modules() if module in _imports(other)]
    return all(user in LAYERS[0] or user in LAYERS[1] or _is_command(user) for user in users)


def test_imports_have_no_cycle() -> None:
    """No module reaches itself, whether imported at the top or inside a function."""
    state: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        if state.get(module) == 2:
            return
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        for imported in _imports(module) & _modules().keys():
            visit(imported, (*path, module))
        state[module] = 2

    for module in _modules():
        visit(module, ())


def test_ctypes_only_in_syscalls() -> None:
    """A system call that Python lacks has a wrapper in a module named syscalls."""
    for module in _modules():
        tops = {name.split(".")[0] for name in _imports(module)}
        if "ctypes" in tops:
            assert module.rpartition(".")[2] == "syscalls", module
        if "_ctypes" in tops:
            assert module == "runtime.oci.native", module


def test_core_imports_no_event_loop() -> None:
    """The core runs without a mount, hence without trio and pyfuse3."""
    core = [name for name in _modules() if name.split(".")[0] == "unionfs" and _reaches_only_core(name)]
    assert "unionfs.lookup" in core
    for module in core:
        assert not _imports(module) & EVENT_LOOP, module


def _reaches_only_core(module: str) -> bool:
    """Tell whether the filesystem module needs this one."""
    pending, seen = ["unionfs.filesystem"], set[str]()
    while pending:
        current = pending.pop()
        if current not in seen:
            seen.add(current)
            pending += list(_imports(current) & _modules().keys())
    return module in seen


def test_every_source_file_has_licence_and_docstring() -> None:
    """One SPDX line first, then what the module owns."""
    sources = [*_modules().values(), *(ROOT / "tests").rglob("*.py")]
    for path in sources:
        text = path.read_text()
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        if path.name != "__init__.py":
            assert ast.get_docstring(ast.parse(text)), path
