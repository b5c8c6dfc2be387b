# SPDX-License-Identifier: Apache-2.0
"""A world of two clients in which the server is killed, branches are changed directly and descriptors run out."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.model.client import Client
from tests.model.operations import Node, Operation
from tests.model.runner import Past, Runner
from tests.model.troubles import Turn, change_branch
from tests.model.world import World
from tests.support import tree
from tests.support.flatten import difference, flatten
from tests.support.union import Workshop, eventually

_EXHAUSTED = frozenset({"ENFILE", "EMFILE"})
# What is half done when its second step finds no descriptor; nothing could be compared after that.
_OF_SEVERAL_STEPS = frozenset({"rmtree", "utime"})


class TroubledWorld(World):
    """Operations come from two processes in turn; a turn may be a trouble instead."""

    def __init__(
        self, shop: Workshop, coherence: str = "aufs", udba: str = "reval", launcher: tuple[str, ...] = ()
    ) -> None:
        super().__init__(shop, coherence, udba, launcher)
        self.clients = [Client(self.union.mnt), Client(self.union.mnt)]

    def close(self) -> None:
        """End the clients."""
        for client in self.clients:
            client.close()

    def troubled_example(self, content: list[dict[str, Node]], turns: Sequence[Turn]) -> None:
        """Run one example; the tree is kept for the comparison after a remount."""
        example = _Example(self, self.make_layers(content))
        try:
            self.compare_trees(example.name, "the start")
            for number, (who, step) in enumerate(turns):
                example.turn(number, who, step)
        finally:
            example.drop_all()
        example.check_end()


class _Example:
    """One example's directory: what is open on each side, and what the lower branches hold."""

    def __init__(self, world: TroubledWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.plain = world.plain / name
        self.expected = [Runner(self.plain), Runner(self.plain)]
        self.past = [Past(self.plain), Past(self.plain)]
        self.holding = False
        for client in world.clients:
            client.turn_to(world.union.mnt / name)
        self.before = self._lower()

    def _lower(self) -> list[dict[str, tree.Entry]]:
        return [tree.snapshot(layer / self.name, times=True) for layer in self.world.lower]

    def turn(self, number: int, who: int, step: Operation) -> None:
        """Do one turn; ordinary operations are compared."""
        kind, *arguments = step
        client = self.world.clients[who]
        if kind == "crash":
            self._crash(number)
        elif kind == "behind":
            self._behind(number, *arguments)
        elif kind == "hold":
            self.holding = True
            client.run(step)
        elif kind == "release":
            self._release()
        elif self.holding:
            self._step_under_pressure(number, who, step)
        else:
            self.world.step(self.name, number, step, self.expected[who], self.past[who], client)

    def drop_all(self) -> None:
        """Close everything on all sides."""
        self.holding = False
        for client in self.world.clients:
            client.drop()
        for runner in (*self.expected, *self.past):
            runner.drop()

    def check_end(self) -> None:
        """Compare the trees, and the lower branches with what they were."""
        self.world.compare_trees(self.name, "the end")
        assert self._lower() == self.before
        self.world.done[self.name] = tree.snapshot(self.plain)

    def _crash(self, number: int) -> None:
        """Kill the server, mount again: all that was answered is there, by every name."""
        self.drop_all()
        if self.world.udba == "none":  # the kernel may hold back what was written
            subprocess.run(["sync", "-f", self.world.union.mnt], check=True)
        self.world.union.kill()
        self.world.union.start()
        self.world.compare_trees(self.name, f"step {number}, after a crash")

    def _behind(self, number: int, layer: object, *change: object) -> None:
        """Change a branch directly; the union comes to show what applying the layers gives, in a second or so."""
        self.drop_all()
        self.world.union.flush()
        branches = [*self.world.lower, self.world.rw]
        try:
            change_branch(branches[int(str(layer))] / self.name, *change)
        except OSError:
            return  # there is no such file in that layer
        shutil.rmtree(self.plain)
        flatten([path for path in (branch / self.name for branch in branches) if path.is_dir()], self.plain)
        wanted = tree.snapshot(self.plain)
        changed = Path(str(change[1]))
        eventually(lambda: self._shows(wanted, changed), f"step {number}: {change} in layer {layer} shows")
        self.before = self._lower()

    def _shows(self, wanted: dict[str, tree.Entry], changed: Path) -> bool:
        """Tell whether the kernel knows it all: listings, attributes and names are believed for a second each."""
        mounted = self.world.union.mnt / self.name
        try:
            if difference(wanted, tree.snapshot(mounted)):
                return False
            if any(entry.inode() != os.lstat(entry.path).st_ino for _, entry in tree.walk(mounted)):
                return False
        except FileNotFoundError:
            return False  # listed, then gone
        ways = [changed, *changed.parents][:-1]
        return all(os.path.lexists(mounted / way) == os.path.lexists(self.plain / way) for way in ways)

    def _release(self) -> None:
        self.holding = False
        for client in self.world.clients:
            client.run(("release",))

    def _step_under_pressure(self, number: int, who: int, step: Operation) -> None:
        """As without pressure, or not done at all for want of descriptors."""
        if step[0] in _OF_SEVERAL_STEPS:
            return
        client = self.world.clients[who]
        outcome = client.run(step)
        if isinstance(outcome, str) and outcome in _EXHAUSTED:
            return
        self.world.compare_outcome(self.name, number, step, self.expected[who], self.past[who], outcome)
