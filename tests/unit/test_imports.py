# SPDX-License-Identifier: Apache-2.0
"""The direction of imports: every module has a level and imports only what is below, types included; no cycles."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("unionfs", "runtime", "bench")
# From the ground up; what stands for a package stands for all in it, unless a line of its own says otherwise. Within one
# level imports may go any way but round. docs/architecture.md tells what each of them is.
LEVELS = (
    "unionfs.errors unionfs.program",
    "unionfs.kernel",
    "unionfs.branches",
    "unionfs.options",
    "unionfs.live",
    "unionfs.lookup",
    "unionfs.tree",
    "unionfs.listing",
    "unionfs.plinks",
    "unionfs.handles",
    "unionfs.operations",
    "unionfs.filesystem",
    "unionfs.session.abi unionfs.session.latencies unionfs.session.device unionfs.session.threads unionfs.session.child",
    "unionfs.session.cached_names unionfs.session.notify unionfs.session.deletions",
    "unionfs.session.waiting unionfs.session.watch unionfs.session.background",
    "unionfs.session.direct unionfs.session.pyfuse3 unionfs.session",
    "unionfs.commit",
    "unionfs.server",
    "unionfs.cli",
    "unionfs.api",
    "unionfs unionfs.pytest_plugin",
    "runtime.oci",
    "runtime.oci.failure runtime.oci.files runtime.oci.signals runtime.oci.native runtime.oci.channel runtime.oci.jsontext",
    "runtime.oci.module_cache runtime.oci.schema runtime.oci.defaults runtime.oci.stub runtime.oci.netmove",
    "runtime.oci.syscalls runtime.oci.log runtime.oci.options runtime.oci.imports",
    "runtime.oci.settings runtime.oci.config runtime.oci.console runtime.oci.mappings runtime.oci.namespaces",
    "runtime.oci.netdevices runtime.oci.help",
    "runtime.oci.cgroups runtime.oci.seccomp",
    "runtime.oci.sealed_exec runtime.oci.state runtime.oci.rootfs",
    "runtime.oci.process",
    "runtime.oci.hooks runtime.oci.job",
    "runtime.oci.destroy",
    "runtime.oci.init runtime.oci.start runtime.oci.exec_child",
    "runtime.oci.stage runtime.oci.run_created",
    "runtime.oci.create runtime.oci.dry_run",
    "runtime.oci.commands",
    "runtime.oci.program",
    "runtime.engine",
    "runtime runtime.cli runtime.demo",
    "bench.machine",
    "bench.targets bench.runtimes bench.workloads",
    "bench.results",
    "bench.measuring",
    "bench.report",
    "bench bench.cli",
)
# Of these every part has a line, so that one which is added has to say where it belongs.
STAND_FOR_THEMSELVES = (*PACKAGES, "runtime.oci")
# What only some may look at: a mount is known by its descriptor, and the core looks at no other one.
DOORS = {
    "unionfs.kernel.mount_table": ("unionfs.kernel.procfs", "unionfs.live", "unionfs.session.device", "unionfs.server",
                                   "unionfs.cli", "runtime", "bench"),
    "unionfs.kernel.procfs": ("unionfs.server", "unionfs.cli"),
    "unionfs.session.pyfuse3": ("unionfs.session.pyfuse3",),
    "unionfs.session.direct": ("unionfs.session.direct",),
}  # fmt: skip
# The OCI runtime works without a union, but for its roots of that type.
OCI_MAY_IMPORT = ("unionfs.errors", "unionfs.program", "unionfs.kernel")
# What a program that must start fast, and a core that runs without a mount, cannot afford.
EVENT_LOOP = {"trio", "pyfuse3", "pyroute2"}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _modules() -> dict[str, Path]:
    return {_module(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}


def _import_nodes(node: ast.AST, *, types: bool) -> list[ast.Import | ast.ImportFrom]:
    """Return every import, also those inside functions."""
    found: list[ast.Import | ast.ImportFrom] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            found.append(child)
        elif types or not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
            found += _import_nodes(child, types=types)
    return found


@cache
def _imports(module: str, *, types: bool = False) -> frozenset[str]:
    """Return the modules that `module` imports, ours as far down as they are modules; with `types` what only a checker sees."""
    path = _modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in _import_nodes(ast.parse(path.read_text()), types=types):
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


def _level(module: str) -> int:
    """Return how high a module stands; LookupError if nobody said."""
    levels = {name: number for number, line in enumerate(LEVELS) for name in line.split()}
    name = module
    while name not in levels or (name in STAND_FOR_THEMSELVES and name != module):
        name = name.rpartition(".")[0]
        if not name:
            raise LookupError(f"{module} has no level")
    return levels[name]


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _fault(module: str, imported: str) -> str:
    """Return what is wrong with an import of ours, "" if nothing is."""
    if imported not in PACKAGES and _level(imported) > _level(module):
        return f"{module} imports {imported}, which is above it"
    for room, allowed in DOORS.items():
        if _is_in(imported, (room,)) and not _is_in(module, allowed):
            return f"{module} imports {imported}, which is for others"
    oci = module.startswith("runtime.oci.") and imported.startswith("unionfs.")
    if oci and not _is_in(imported, OCI_MAY_IMPORT):
        return f"{module} imports {imported}: a runtime knows no union's parts"
    return ""


def test_every_import_points_down() -> None:
    """Those count, too, that only a type checker sees."""
    faults = [
        fault
        for module in _modules()
        for imported in _imports(module, types=True)
        if _is_in(imported, PACKAGES) and imported in _modules() and (fault := _fault(module, imported))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("unionfs.branches.branch", "unionfs.session.abi"),
        ("unionfs.lookup.find", "unionfs.operations.policy"),
        ("unionfs.branches.whiteout", "unionfs.live.run_directory"),
        ("unionfs.operations.copyup", "unionfs.kernel.mount_table"),
        ("unionfs.operations.policy", "unionfs.session.direct.session"),
        ("unionfs.session.direct.data", "unionfs.session.pyfuse3.session"),
        ("runtime.oci.state", "runtime.engine.container"),
        ("runtime.oci.state", "runtime.oci.process.prepared"),
        ("runtime.oci.failure", "runtime.oci.log"),
        ("runtime.oci.cgroups.freezer", "runtime.oci.state"),
        ("runtime.oci.seccomp.load", "runtime.oci.rootfs.resolve"),
        ("runtime.oci.rootfs.prepare", "runtime.oci.process.user"),
        ("runtime.oci.process.launch", "runtime.oci.job"),
        ("runtime.oci.init", "runtime.oci.create"),
        ("runtime.oci.create", "runtime.oci.commands.create"),
        ("runtime.oci.commands.features", "runtime.oci.program"),
        ("runtime.oci.state", "unionfs.branches.branch"),
        ("runtime.engine.container", "bench.measuring.plan"),
    ],
)
def test_import_that_points_up_is_found(module: str, imported: str) -> None:
    """Each of these would be a mistake that somebody might make."""
    assert {module, imported} <= _modules().keys()
    assert _fault(module, imported)


def test_every_module_has_a_level() -> None:
    """Also one that imports nothing, and that nobody imports."""
    for module in _modules():
        _level(module)


@pytest.mark.parametrize("module", ["unionfs.novelty", "runtime.oci.novelty"])
def test_module_without_a_level_is_found(module: str) -> None:
    """Whoever adds one says where it stands."""
    with pytest.raises(LookupError):
        _level(module)


def test_imports_have_no_cycle() -> None:
    """No module reaches itself, whether imported at the top, inside a function or for its types."""
    state: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        if state.get(module) == 2:
            return
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        for imported in _imports(module, types=True) & _modules().keys():
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
    assert "unionfs.lookup.find" in core
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
