# SPDX-License-Identifier: Apache-2.0
"""Bundles and control groups for tests of the OCI runtime, and the promise that nothing is left behind."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.oci.cgroups import Group, open_group
from tests.support.groups import OURS, Make
from tests.support.oci import Bundle, can_run

_counter = itertools.count()


@pytest.fixture
def make_bundle() -> Iterator[Callable[[], Bundle]]:
    """Give a function that makes bundles; fail if one of their containers leaves something."""
    if not can_run():
        pytest.skip("containers need root and busybox")
    top = Path(tempfile.mkdtemp(prefix="unionrt-test-")).resolve()
    top.chmod(0o755)
    bundles: list[Bundle] = []

    def make() -> Bundle:
        directory = top / str(len(bundles))
        directory.mkdir(mode=0o755)
        bundles.append(Bundle(directory, f"{top.name}-{len(bundles)}"))
        return bundles[-1]

    try:
        yield make
        for bundle in bundles:
            bundle.close()
    finally:
        shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def bundle(make_bundle: Callable[[], Bundle]) -> Bundle:
    """Give one bundle."""
    return make_bundle()


@pytest.fixture
def make_group() -> Iterator[Make]:
    """Give a function that makes a group with resources; all are destroyed and must be gone."""
    groups: list[Group] = []

    def make(resources: dict[str, Any] | None = None, **linux: Any) -> Group:
        path = f"/{OURS}-{next(_counter)}"
        group = open_group({"linux": {"cgroupsPath": path, **linux}}, "unused")
        groups.append(group)
        group.create()
        group.apply(resources or {})
        return group

    yield make
    for group in groups:
        group.destroy()
        assert [path for path in group.directories() if os.path.exists(path)] == []
