# SPDX-License-Identifier: Apache-2.0
"""Let calls of the server fail during an operation, many times in one mount, and judge what is seen then and after a remount."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.calls import Fault
from tests.faults.injector import Trace
from tests.faults.operations import OPERATIONS, Operation
from tests.faults.plan import ERRORS, Plan, traced
from tests.faults.report import Tally, Wrong
from tests.faults.view import View, differences, look, without_times
from tests.faults.world import Configuration, World, act, settled

_COPIES = 60
# What the server answers for an error that a client would take for its own.
ERRNOS = {"EMFILE": "ENFILE"}
# So long (seconds) the kernel may show what it cached, and some.
_CACHED = 1.3


@dataclass(frozen=True)
class Expected:
    """What an operation does without faults: its result, and what was and is to be seen."""

    result: str
    old: View
    new: View
    calls: dict[str, list[str]]


@dataclass(frozen=True)
class Tried:
    """What is to be seen again after a remount."""

    operation: str
    fault: Fault
    directory: str
    seen: View


class Errors:
    """The failed calls of one configuration."""

    def __init__(
        self, place: Callable[[], Path], configuration: Configuration, plan: Plan, tally: Tally
    ) -> None:
        self._place, self._configuration, self._plan, self._tally = place, configuration, plan, tally
        self._world: World | None = None
        self._tried: list[Tried] = []

    def run(self) -> None:
        """Try everything that the plan wants."""
        try:
            for name, operation in OPERATIONS.items():
                if self._plan.wants(name):
                    for error in self._plan.errors():
                        self._try_all(name, operation, error)
            self._finish()
        finally:
            if self._world is not None:
                self._world.close()

    def _room(self, copies: int) -> World:
        """Return a world with so many fresh directories and a living server."""
        world = self._world
        if world is None or world.left < copies or not world.is_alive():
            self._finish()
            world = self._world = World(self._place(), self._configuration, _COPIES)
        return world

    def _try_all(self, name: str, operation: Operation, error: str) -> None:
        world = self._room(8)
        expected = _expect(world, operation, traced(error), warm=ERRORS[error])
        for fault, arguments in self._plan.points(error, expected.calls):
            self._try(self._room(2), name, operation, expected, fault, arguments)

    def _try(
        self, world: World, name: str, operation: Operation, expected: Expected, fault: Fault, arguments: str
    ) -> None:
        directory = world.take()
        _prepare(operation, directory, warm=ERRORS[fault.error + "+" * fault.persistent])
        before, position = world.descriptors(), world.union.log.stat().st_size
        with world.watching([fault.call], fault) as trace:
            result = act(operation.act, directory)
        self._tally.failed += 1
        self._tally.missed += not trace.hit
        wrong = partial(self._tally.report, name, fault, call=arguments)
        if not world.is_alive():
            wrong("the server died", world.log_since(position)[-600:])
            return
        if "Traceback" in world.log_since(position):
            wrong("traceback", world.log_since(position)[-600:])
        seen = _judge(wrong, world, directory, expected, fault, result, trace)
        left = world.descriptors() - before
        if left:
            wrong("descriptors are left", list(left.items())[:4])
        if (
            result
            and result != expected.result
            and world.counted(seen, directory) == expected.old
            and fault.number % 2
        ):
            seen = self._repeat(wrong, world, operation, directory, expected)
        self._tried.append(Tried(name, fault, directory, seen))

    def _repeat(
        self, wrong: Wrong, world: World, operation: Operation, directory: str, expected: Expected
    ) -> View:
        result = act(operation.act, directory)
        seen = settled(directory, lambda view: world.counted(view, directory) == expected.new, _CACHED)
        counted = world.counted(seen, directory)
        if result != expected.result:
            wrong("fails when repeated", result)
        elif counted != expected.new:
            wrong("differs when repeated", differences(expected.new, counted))
        return seen

    def _finish(self) -> None:
        """Remount the present world and compare all that was seen; nothing may be left, nothing below may be touched."""
        world, self._world = self._world, None
        tried, self._tried = self._tried, []
        if world is None:
            return
        try:
            if not world.is_alive():
                world.kill()
            elif problem := world.stop():
                self._tally.report("umount", None, "umount fails", problem)
            problems = world.problems(swept=any(one.fault.leaves for one in tried))
            world.union.start()
            for one in tried:
                self._compare(world, one, problems)
            if problem := world.stop():
                self._tally.report("umount", None, "umount fails", problem)
            problems += world.problems()
            problems = [text for text in problems if not any(_is_in(text, one.directory) for one in tried)]
            if problems:
                self._tally.report("all", None, "check", problems[:6])
            if touched := world.lower_changes():
                self._tally.report("all", None, "a lower branch is touched", touched)
        finally:
            world.close()

    def _compare(self, world: World, one: Tried, problems: list[str]) -> None:
        mine = [text for text in problems if _is_in(text, one.directory)]
        if mine:
            self._tally.report(one.operation, one.fault, "check", mine)
        now, before = (world.counted(view, one.directory) for view in (look(one.directory), one.seen))
        if now != before:
            only_times = without_times(now) == without_times(before)
            kind = "times after a remount" if only_times else "other view after a remount"
            self._tally.report(one.operation, one.fault, kind, differences(before, now))


def _is_in(problem: str, directory: str) -> bool:
    return f"/{os.path.basename(directory)}/" in problem


def _prepare(operation: Operation, directory: str, *, warm: bool) -> None:
    if operation.before is not None:
        result = act(operation.before, directory)
        assert not result, result
    if warm:
        look(directory)


def _expect(world: World, operation: Operation, calls: tuple[str, ...], *, warm: bool) -> Expected:
    """Do an operation without faults, and see which calls it makes."""
    directory = world.take()
    _prepare(operation, directory, warm=True)
    old = world.counted(look(directory), directory)
    directory = world.take()
    _prepare(operation, directory, warm=warm)
    with world.watching(calls) as trace:
        result = act(operation.act, directory)
    return Expected(result, old, world.counted(look(directory), directory), trace.calls())


def _judge(
    wrong: Wrong,
    world: World,
    directory: str,
    expected: Expected,
    fault: Fault,
    result: str,
    trace: Trace,
) -> View:
    """Compare result and view with what they may be; return the view."""
    if result not in ("", ERRNOS.get(fault.error, fault.error), expected.result):
        wrong("hangs" if result == "HANG" else "another error", result)
    done = result == expected.result
    wanted = expected.new if done else expected.old
    view = settled(directory, lambda view: world.counted(view, directory) == wanted, _CACHED)
    seen = world.counted(view, directory)
    if seen == wanted:
        return view
    timeless = without_times(seen)
    if fault.moves_times and without_times(seen, of_directories=True) == without_times(
        wanted, of_directories=True
    ):
        return view
    if timeless == without_times(wanted):
        wrong("times", differences(wanted, seen))
    elif not done and timeless == without_times(expected.new):
        wrong("an error, but it is done", result)
    else:
        wrong("neither old nor new", [result, *differences(wanted, seen)])
    return view
