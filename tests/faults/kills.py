# SPDX-License-Identifier: Apache-2.0
"""Kill the server at calls of an operation, and judge what the next mount shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.operations import OPERATIONS, Operation
from tests.faults.plan import KILL, Plan
from tests.faults.report import Tally
from tests.faults.strace import CHANGING, Fault, attached
from tests.faults.view import View, differences, look, without_times
from tests.faults.world import Configuration, World, act
from tests.support.union import eventually
from unionfs.check import check_branch, repair


class Kills:
    """The kills of one configuration; each needs a server of its own."""

    def __init__(
        self, place: Callable[[], Path], configuration: Configuration, plan: Plan, tally: Tally
    ) -> None:
        self._place, self._configuration, self._plan, self._tally = place, configuration, plan, tally

    def run(self) -> None:
        """Try everything that the plan wants."""
        for name, operation in OPERATIONS.items():
            if self._plan.wants(name):
                old, new, calls = self._expect(operation)
                for fault, arguments in self._plan.points(KILL, calls):
                    self._try(name, operation, old, new, fault, arguments)

    def _expect(self, operation: Operation) -> tuple[View, View, dict[str, list[str]]]:
        world = World(self._place(), self._configuration, 2)
        try:
            views = []
            for number in range(2):
                directory = world.take()
                if operation.before is not None:
                    act(operation.before, directory)
                views.append(look(directory) if number == 0 else {})
            with attached(world.pid, world.trace, CHANGING) as trace:
                act(operation.act, directory)
            return views[0], look(directory), trace.calls()
        finally:
            world.close()

    def _try(
        self, name: str, operation: Operation, old: View, new: View, fault: Fault, arguments: str
    ) -> None:
        world = World(self._place(), self._configuration, 1)
        try:
            directory = world.take()
            if operation.before is not None:
                act(operation.before, directory)
            with attached(world.pid, world.trace, [fault.call], fault):
                act(operation.act, directory)
            self._tally.killed += 1
            self._judge(world, name, (old, new), fault, arguments)
        finally:
            world.close()

    def _judge(self, world: World, name: str, views: tuple[View, View], fault: Fault, arguments: str) -> None:
        wrong = partial(self._tally.report, name, fault, call=arguments)
        try:
            eventually(lambda: not world.is_alive(), deadline=2)
        except AssertionError:  # the call was not made
            self._tally.missed += 1
            world.stop()
        world.kill()
        problems = world.problems(swept=True)
        if problems and not all(text.startswith("pair ") for text in problems):
            wrong("check after a kill", problems)
        mend_pairs(world)
        world.union.start()
        seen = look(f"{world.mnt}/d0")
        # A directory's time moves with every entry, and is put back in another step.
        if without_times(seen, of_directories=True) not in [
            without_times(view, of_directories=True) for view in views
        ]:
            nearest = min((differences(view, seen) for view in views), key=len)
            only_times = without_times(seen) in [without_times(view) for view in views]
            wrong(
                "times after a kill" if only_times else "neither old nor new after a kill",
                [problems, *nearest],
            )
        if problem := world.stop():
            wrong("umount fails", problem)
        if problems := world.problems():
            wrong("check after the next mount", problems)
        if touched := world.lower_changes():
            wrong("a lower branch is touched", touched)


def mend_pairs(world: World) -> None:
    """Do what docs/concurrency.md says of a kill in the middle of a removal; the rest is the next mount's."""
    for problem in check_branch(str(world.branches["B0"])):
        if problem.kind == "pair":
            repair(problem)
