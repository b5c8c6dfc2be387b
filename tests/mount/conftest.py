# SPDX-License-Identifier: Apache-2.0
"""Two branches and a mount point for tests of the programs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give two branches and a mount point."""
    tmp_path.chmod(0o755)
    made = Place(tmp_path)
    try:
        yield made
    finally:
        made.clean()
