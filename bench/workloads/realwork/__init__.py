# SPDX-License-Identifier: Apache-2.0
"""Work as people do it: source trees, git, package managers, a compiler, a database."""

from bench.workloads.realwork import debian, git, node, project, python, sqlite, tree

QUICK_TREE = tree.QUICK
WORKLOADS = (
    *tree.WORKLOADS,
    *git.WORKLOADS,
    *python.WORKLOADS,
    *node.WORKLOADS,
    *debian.WORKLOADS,
    *project.WORKLOADS,
    *sqlite.WORKLOADS,
)

__all__ = ["QUICK_TREE", "WORKLOADS"]
