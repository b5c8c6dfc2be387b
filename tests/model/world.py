# SPDX-License-Identifier: Apache-2.0
"""One union and a plain directory beside it, on which the same operations must have the same outcome.

One mount serves many examples: each has a directory of its own in every branch, made behind the mount before it is
looked at.
"""

import itertools
import os
import shutil
from pathlib import Path
from typing import Protocol

from tests.model.operations import Node, Operation, make_layer
from tests.model.runner import Past, Runner
from tests.support import tree
from tests.support.flatten import difference, flatten
from tests.support.union import Union, Workshop

LAYERS = 3


class Doer(Protocol):
    """What carries out operations: a Runner, here or in another process."""

    def run(self, operation: Operation) -> object: ...


class World:
    """One mount and the plain directories beside it."""

    def __init__(
        self, shop: Workshop, coherence: str = "aufs", udba: str = "reval", launcher: tuple[str, ...] = ()
    ) -> None:
        self.coherence = coherence
        self.udba = udba
        self.plain = shop.directory("plain")
        self.lower = [shop.directory(f"L{n}") for n in range(LAYERS)]  # the lowest first
        text = "br:{rw}=rw:" + ":".join(f"{{L{n}}}=ro+wh" for n in reversed(range(LAYERS)))
        text += f",coherence={coherence},udba={udba}"
        branches = {f"L{n}": path for n, path in enumerate(self.lower)}
        self.union: Union = shop.prepare(text, " ".join(branches), {"rw": {}, **branches})
        self.union.launcher = list(launcher)
        self.union.start()
        self.rw = self.union.branches["rw"]
        self.numbers = itertools.count()
        self.done: dict[str, dict[str, tree.Entry]] = {}

    def example(self, content: list[dict[str, Node]], steps: list[Operation]) -> None:
        """Run one example and compare; the tree is kept for the comparison after a remount."""
        name = self.make_layers(content)
        plain = self.plain / name
        before = [tree.snapshot(layer / name, times=True) for layer in self.lower]
        expected, past, found = Runner(plain), Past(plain), Runner(self.union.mnt / name)
        try:
            self.compare_trees(name, "the start")
            for number, step in enumerate(steps):
                self.step(name, number, step, expected, past, found)
        finally:
            past.close()
            expected.close()
            found.close()
        self.compare_trees(name, "the end")
        assert [tree.snapshot(layer / name, times=True) for layer in self.lower] == before
        self.done[name] = tree.snapshot(plain)

    def make_layers(self, content: list[dict[str, Node]]) -> str:
        """Make the directories of one example in the branches and the plain tree; return their name."""
        name = f"x{next(self.numbers)}"
        plain = self.plain / name
        for layer, nodes in zip(self.lower, content, strict=True):
            make_layer(layer / name, nodes, plain)
            flatten([layer / name], plain)
        if self.udba == "none":  # then a mount may go on believing what it saw in the branches before
            self.union.remount()
        return name

    def step(
        self, name: str, number: int, step: Operation, expected: Runner, past: Past, found: Doer
    ) -> None:
        """Do one operation on both sides and compare its outcome."""
        if step[0] == "map" and past.is_shorter(step[1], expected.run(("pread", step[1], 0))):
            return
        self.compare_outcome(name, number, step, expected, past, found.run(step))

    def compare_outcome(
        self, name: str, number: int, step: Operation, expected: Runner, past: Past, outcome: object
    ) -> None:
        """Compare what came of an operation on the union with what comes of it on the plain tree."""
        if outcome == "EXDEV" and self._is_lower_directory_rename(name, step):
            return
        wanted = expected.run(step)
        former = past.run(step)
        if outcome != wanted and step[0] == "peek" and past.shows(former, outcome):
            return  # mapped before the copy-up
        assert outcome == wanted, f"step {number} {step}: expected {wanted}, found {outcome}"
        if step[0] == "open" and self.coherence == "overlay" and not isinstance(wanted, str):
            past.keep(step)

    def _is_lower_directory_rename(self, name: str, step: Operation) -> bool:
        """Tell whether AUFS' rules may refuse: a side is a directory that a lower branch has."""
        kind, *arguments = step
        if kind != "rename":
            return False
        sides = [str(side) for side in arguments[:2]]
        return any((layer / name / side).is_dir() for layer in self.lower for side in sides)

    def compare_trees(self, name: str, when: str) -> None:
        """Fail where the union differs from the plain tree."""
        mounted = self.union.mnt / name
        problem = difference(tree.snapshot(self.plain / name), tree.snapshot(mounted))
        assert not problem, f"at {when}:\n{problem}"
        for _, entry in tree.walk(mounted):
            assert entry.inode() == os.lstat(entry.path).st_ino, entry.path

    def check_after_remount(self) -> None:
        """Compare what the branches hold, and what a new mount shows, with the plain trees; then forget them."""
        self.union.stop()
        for name, expected in self.done.items():
            target = self.plain / f"{name}.flat"
            flatten([*(layer / name for layer in self.lower), *self.top(name)], target)
            problem = difference(expected, tree.snapshot(target))
            assert not problem, f"{name} flattened:\n{problem}"
            shutil.rmtree(target)
        self.union.start()
        for name, expected in self.done.items():
            problem = difference(expected, tree.snapshot(self.union.mnt / name))
            assert not problem, f"{name} after remount:\n{problem}"
        self.done.clear()

    def top(self, name: str) -> list[Path]:
        """Return where the writable branch has something of the example."""
        top = self.rw / name
        return [top] if os.path.lexists(top) else []
