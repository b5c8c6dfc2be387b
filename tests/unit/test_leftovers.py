# SPDX-License-Identifier: Apache-2.0
"""What is removed after an operation, by whoever comes to it first."""

import os
import threading
from pathlib import Path

from unionfs.branches.leftovers import remove_tree


def test_removal_of_one_tree_by_several_succeeds_for_each(tmp_path: Path) -> None:
    """A commit and the server that undoes the one before may both sweep a stage: neither fails over what the other took."""
    failures: list[OSError] = []

    def remove(root: int, start: threading.Barrier) -> None:
        start.wait()
        try:
            remove_tree(root, b"stage")
        except OSError as error:
            failures.append(error)

    for _ in range(10):
        for directory in range(20):
            (tmp_path / "stage" / f"{directory}" / "sub").mkdir(parents=True)
            (tmp_path / "stage" / f"{directory}" / "file").touch()
        root, start = os.open(tmp_path, os.O_RDONLY), threading.Barrier(3)
        threads = [threading.Thread(target=remove, args=(root, start)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.close(root)
        assert not failures
        assert os.listdir(tmp_path) == []
