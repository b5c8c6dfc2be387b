# SPDX-License-Identifier: Apache-2.0
"""What the program imports: the time to start a container is mostly the time to import modules, so each is counted here.

The list is asserted, not the time, which depends on the machine.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.oci import PROGRAM, ROOT, Bundle

# What a start may load of the standard library, beside what `python -IS -c pass` has loaded.
ALLOWED = set(
    "__future__ _collections_abc _ctypes _json _signal _socket _stat _struct errno fcntl gc genericpath"
    " os posixpath select stat struct".split()
)
MOST = 80  # modules of ours
CODE = "import sys; sys.path.insert(0, {top!r}); from runtime.oci.program import main; main({arguments!r})"


def _imported(arguments: list[str], cwd: Path) -> tuple[set[str], set[str]]:
    """Return the modules that a command imports: (ours, others)."""
    names = _names("-c", CODE.format(top=str(ROOT), arguments=arguments), cwd=cwd) - _names("-c", "", cwd=cwd)
    ours = {name for name in names if name.split(".")[0] in ("runtime", "unionfs", "bench")}
    return ours, names - ours


def _names(*arguments: str, cwd: Path) -> set[str]:
    """Return the modules that the import system looks for, in a python started as the program starts it."""
    result = subprocess.run(
        [sys.executable, "-ISX", "importtime", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


@pytest.mark.parametrize(
    "way", ["{0}//unionrt", "{0}/./unionrt", "{0}/../runtime/unionrt", "{1}/unionrt", "{1}//unionrt"]
)
def test_program_finds_its_package_however_it_is_called(tmp_path: Path, way: str) -> None:
    """Two slashes (a PATH that ends in one), dots, and a link to the directory: the words of the path need not tell."""
    link = tmp_path / "link"
    link.symlink_to(PROGRAM.parent)
    program = way.format(PROGRAM.parent, link)
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_program_is_found_by_a_path_that_ends_in_a_slash() -> None:
    """As shells and execvp(3) join it."""
    path = f"{PROGRAM.parent}/:{os.environ['PATH']}"
    done = subprocess.run(
        ["env", f"PATH={path}", "unionrt", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_run_imports_little(bundle: Bundle) -> None:
    """No argparse, json, re, enum, typing, signal, socket, ctypes, subprocess …; and not much of our own."""
    bundle.process["args"] = ["true"]
    bundle.save()
    ours, others = _imported(["--root", str(bundle.state), "run", bundle.id], bundle.directory)
    assert others <= ALLOWED
    assert len(ours) <= MOST
    for name in (
        "dry_run",
        "help",
        "mappings",
        "hooks",
        "console",
        "commands.list",
        "cgroups.statistics",
        "seccomp",
    ):
        assert f"runtime.oci.{name}" not in ours


@pytest.mark.parametrize("command", ["state", "list"])
def test_questions_import_less(bundle: Bundle, command: str) -> None:
    """What only reads the state needs nothing that makes containers."""
    bundle.detach()
    arguments = ["--root", str(bundle.state), command, *([bundle.id] if command == "state" else [])]
    ours, others = _imported(arguments, bundle.directory)
    assert others <= ALLOWED
    assert not [name for name in ours if name.startswith(("runtime.oci.rootfs", "runtime.oci.process"))]


@pytest.mark.parametrize("command", ["kill", "delete"])
def test_ends_import_less(bundle: Bundle, command: str) -> None:
    """What ends a container needs nothing that makes one."""
    bundle.detach()
    arguments = {"kill": [bundle.id, "KILL"], "delete": ["--force", bundle.id]}[command]
    ours, others = _imported(["--root", str(bundle.state), command, *arguments], bundle.directory)
    assert others <= ALLOWED
    unneeded = ("rootfs", "process", "config", "create", "cgroups.limits", "cgroups.statistics")
    assert not [name for name in ours if name.startswith(tuple(f"runtime.oci.{name}" for name in unneeded))]


def test_second_start_looks_for_few_modules(bundle: Bundle) -> None:
    """All but the first three of ours, and the standard library's that are source, come from the module cache."""
    bundle.process["args"] = ["true"]
    bundle.save()
    arguments = [str(PROGRAM), str(ROOT), "--root", str(bundle.state), "run", bundle.id]
    _names(*arguments, cwd=bundle.directory)
    names = _names(*arguments, cwd=bundle.directory) - _names("-c", "", cwd=bundle.directory)
    assert {name for name in names if name.startswith("runtime")} == {
        "runtime",
        "runtime.oci",
        "runtime.oci.module_cache",
    }
    assert names <= (ALLOWED | {"marshal", "runtime", "runtime.oci", "runtime.oci.module_cache"}) - {
        "__future__",
        "struct",
    }


def test_program_starts_python_without_site(bundle: Bundle) -> None:
    """The script starts the interpreter isolated, wherever it is called from and through whatever link."""
    link = bundle.directory / "link"
    link.symlink_to(PROGRAM)
    for program in (str(PROGRAM), str(link)):
        result = subprocess.run([program, "--version"], cwd="/", capture_output=True, text=True, timeout=60)
        assert result.stdout.startswith(("unionrt version", "link version")), result.stderr


@pytest.mark.parametrize("kind", ["site-packages", "dist-packages"])
def test_program_is_found_where_it_is_installed(tmp_path: Path, kind: str) -> None:
    """A copy of the script in a bin directory finds the package in the installation beside it."""
    packages = tmp_path / "lib" / f"python{sysconfig.get_python_version()}" / kind
    packages.mkdir(parents=True)
    for name in ("runtime", "unionfs"):
        (packages / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "bin/unionrt").write_bytes(PROGRAM.read_bytes())
    (tmp_path / "bin/unionrt").chmod(0o755)
    result = subprocess.run(
        [tmp_path / "bin/unionrt", "--version"], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.startswith("unionrt version"), result.stderr
