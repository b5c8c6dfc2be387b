# SPDX-License-Identifier: Apache-2.0
"""What is handed out: a source distribution is the repository, a wheel has the programs, their modules and their types."""

import subprocess
import sys
from pathlib import Path

import unionfs

ROOT = Path(__file__).parents[2]
PACKAGES = ("unionfs", "runtime", "bench")
BESIDE = "LICENSE README.md README.zh.md CONTRIBUTING.md Makefile MANIFEST.in pyproject.toml".split()


def _setuptools(*commands: str) -> None:
    """Run setuptools' own commands on this project, without the network that a build in isolation needs."""
    code = "from setuptools import setup; setup()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "-q", *commands],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def _files(*tops: str) -> set[str]:
    """Return the files below some directories, without what running them leaves there."""
    paths = (path for top in tops for path in (ROOT / top).rglob("*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in paths if path.is_file()}


def test_source_distribution_is_the_repository(tmp_path: Path) -> None:
    """It has the tests, the documents and what runs them; its version is the package's."""
    _setuptools("egg_info", "--egg-base", str(tmp_path))
    listed = set((tmp_path / "unionfs.egg-info/SOURCES.txt").read_text().splitlines())
    assert {*BESIDE, *_files(*PACKAGES, "tests", "docs", ".ci")} - listed == set()
    assert not [name for name in listed if "__pycache__" in name or name.startswith((".venv", "build/"))]
    assert f"\nVersion: {unionfs.__version__}\n" in (tmp_path / "unionfs.egg-info/PKG-INFO").read_text()


def test_wheel_has_modules_types_and_programs(tmp_path: Path) -> None:
    """All our modules, the marker that they have types (PEP 561) for each package, the licence, and no tests."""
    _setuptools("egg_info", "--egg-base", str(tmp_path), "build", "--build-base", str(tmp_path / "build"))
    library = tmp_path / "build/lib"
    built = {str(path.relative_to(library)) for path in library.rglob("*") if path.is_file()}
    modules = {name for name in _files(*PACKAGES) if name.endswith(".py")}
    assert built == modules | {f"{package}/py.typed" for package in PACKAGES}
    assert [path.name for path in (tmp_path / "build").glob("scripts*/*")] == ["unionrt"]
    described = tmp_path / "unionfs.egg-info"
    assert "License-File: LICENSE" in (described / "PKG-INFO").read_text()
    for program in ("unionfs", "mount.unionfs", "unionfs-overlay", "unionbox", "unionbench"):
        assert f"\n{program} = " in (described / "entry_points.txt").read_text()


def test_python_runs_the_program_by_its_package() -> None:
    """For whoever has the package, but not its programs on the PATH."""
    done = subprocess.run([sys.executable, "-m", "unionfs.cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("unionfs ")
