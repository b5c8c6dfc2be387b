# SPDX-License-Identifier: Apache-2.0
"""Kill the server at calls of an operation, and judge what the next mount shows, and the one after several kills."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.calls import CHANGING, Fault
from tests.faults.operations import OPERATIONS, Operation
from tests.faults.plan import KILL, Plan
from tests.faults.report import Tally, Wrong
from tests.faults.view import View, differences, look, without_times
from tests.faults.world import Configuration, World, act
from tests.support.union import eventually
from unionfs.cli.check import check_branch, repair

# Kills in the branches of one world, each in a directory of its own, with a server of its own.
_COPIES = 10


class Kills:
    """The kills of one configuration."""

    def __init__(
        self, place: Callable[[], Path], configuration: Configuration, plan: Plan, tally: Tally
    ) -> None:
        self._place, self._configuration, self._plan, self._tally = place, configuration, plan, tally
        self._world: World | None = None
        self._tried: list[tuple[Wrong, str, View]] = []  # what is to be seen again

    def run(self) -> None:
        """Try everything that the plan wants."""
        try:
            for name, operation in OPERATIONS.items():
                if self._plan.wants(name):
                    old, new, calls = _expect(self._room(2), operation)
                    for fault, arguments in self._plan.points(KILL, calls):
                        wrong = partial(self._tally.report, name, fault, call=arguments)
                        self._try(self._room(1), operation, (old, new), fault, wrong)
            self._finish()
        finally:
            if self._world is not None:
                self._world.close()

    def _room(self, copies: int) -> World:
        """Return a world with so many fresh directories and a living server."""
        world = self._world
        if world is None or world.left < copies:
            self._finish()
            world = self._world = World(self._place(), self._configuration, _COPIES)
        return world

    def _try(
        self, world: World, operation: Operation, views: tuple[View, View], fault: Fault, wrong: Wrong
    ) -> None:
        directory = world.take()
        if operation.before is not None:
            act(operation.before, directory)
        with world.watching([fault.call], fault) as trace:
            act(operation.act, directory)
        self._tally.killed += 1
        if not trace.hit:
            self._tally.missed += 1
            world.stop()
        else:
            eventually(lambda: not world.is_alive(), "the server's end")
            world.kill()
        self._judge(world, directory, views, wrong)

    def _judge(self, world: World, directory: str, views: tuple[View, View], wrong: Wrong) -> None:
        problems = world.problems(swept=True)
        if problems and not all(text.startswith("pair ") for text in problems):
            wrong("check after a kill", problems)
        mend_pairs(world)
        world.union.start()
        view = look(directory)
        self._tried.append((wrong, directory, view))
        seen = world.counted(view, directory)
        # A directory's time moves with every entry, and is put back in another step.
        if without_times(seen, of_directories=True) in [
            without_times(view, of_directories=True) for view in views
        ]:
            return
        nearest = min((differences(view, seen) for view in views), key=len)
        only_times = without_times(seen) in [without_times(view) for view in views]
        kind = "times after a kill" if only_times else "neither old nor new after a kill"
        wrong(kind, [problems, *nearest])

    def _finish(self) -> None:
        """End the present world in order: nothing is left, below nothing is touched, and another mount shows the same."""
        world, self._world = self._world, None
        tried, self._tried = self._tried, []
        if world is None:
            return
        try:
            problems = [world.stop(), *world.problems(), *world.lower_changes()]
            if any(problems):
                for wrong, directory, _ in tried:
                    mine = [text for text in problems if f"/{os.path.basename(directory)}/" in f"/{text}/"]
                    if mine:
                        wrong("left after kills", mine)
                self._tally.report("all", None, "left after kills", problems)
            world.union.start()
            for wrong, directory, seen in tried:
                now, seen = (world.counted(view, directory) for view in (look(directory), seen))
                if now != seen:
                    wrong("other view after kills and a remount", differences(seen, now))
            if problem := world.stop():
                self._tally.report("all", None, "umount fails", problem)
        finally:
            world.close()


def _prepare(world: World, operation: Operation) -> str:
    directory = world.take()
    if operation.before is not None:
        act(operation.before, directory)
    return directory


def _expect(world: World, operation: Operation) -> tuple[View, View, dict[str, list[str]]]:
    """Do an operation twice: return what is seen before and after it, and the calls."""
    first = _prepare(world, operation)
    old = world.counted(look(first), first)
    directory = _prepare(world, operation)
    with world.watching(CHANGING) as trace:
        act(operation.act, directory)
    return old, world.counted(look(directory), directory), trace.calls()


def mend_pairs(world: World) -> None:
    """Do what docs/concurrency.md says of a kill in the middle of a removal; the rest is the next mount's."""
    for problem in check_branch(str(world.branches["B0"])):
        if problem.kind == "pair":
            repair(problem)
