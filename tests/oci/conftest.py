# SPDX-License-Identifier: Apache-2.0
"""Bundles for tests of the OCI runtime, and the promise that no container leaves anything behind."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.oci import Bundle, can_run


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
