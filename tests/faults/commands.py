# SPDX-License-Identifier: Apache-2.0
"""The same for commands: calls of the server or of the command fail, or one of them is killed, and the command is repeated."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.calls import Fault
from tests.faults.forked import run
from tests.faults.injector import Trace
from tests.faults.kills import mend_pairs
from tests.faults.operations import OPERATIONS, Act
from tests.faults.plan import KILL, Plan, traced
from tests.faults.report import Tally, Wrong
from tests.faults.view import NOW, View, differences, look, without_times
from tests.faults.world import Configuration, World, act, settled
from tests.support.union import eventually, is_mounted

_PATIENCE = 30.0


def _change(d: str) -> None:
    """Leave pseudo-links, whiteouts, an opaque directory and synced data on the upper branch."""
    for name in ("h1", "f"):
        fd = os.open(f"{d}/{name}", os.O_RDWR)
        os.pwrite(fd, b"SYNCED", 10)
        os.fsync(fd)
        os.close(fd)
    os.unlink(f"{d}/both")
    os.rename(f"{d}/uf", f"{d}/ud/uf2")
    os.mkdir(f"{d}/wd")


@dataclass(frozen=True)
class Command:
    """One command; {B0}, {U} and so on stand for directories. `lower`: the lower branch's permission, "" for the usual one."""

    words: str
    client: bool = False  # whose calls fail
    lower: str = ""
    before: Act | None = _change
    changes: bool = False
    forms: tuple[str, ...] = ("aufs", "overlay")

    def argv(self, world: World) -> list[str]:
        """Return it for a world."""
        return self.words.format(U=world.mnt, **world.branches).split()


COMMANDS = {
    "flush": Command("flush {U}"),
    "mvdown": Command("mvdown {U}/d0/uf", lower="rw", before=None),
    "mvdown-over": Command("mvdown -o {U}/d0/both", lower="rw", before=None),
    "commit": Command("commit {U} {B1}", client=True, forms=("aufs",)),
    "commit-server": Command("commit {U} {B1}", forms=("aufs",)),
    "commit-copy": Command("commit --copy {U} {B1}", client=True, forms=("aufs",)),
    "umount": Command("umount {U}"),
    "branch-mod-rw": Command("branch mod {U} {B1}=rw"),
    "branch-mod-ro": Command("branch mod {U} {B1}=ro+wh", lower="rw"),
    "branch-append": Command("branch append {U} {B2}=ro+wh", changes=True),
    "branch-del": Command("branch del {U} {B1}", changes=True),
}


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    said: str

    @property
    def hangs(self) -> bool:
        """Tell whether it did not end."""
        return self.status < 0


class Commands:
    """The commands of one configuration."""

    def __init__(
        self, place: Callable[[], Path], configuration: Configuration, plan: Plan, tally: Tally
    ) -> None:
        self._place, self._configuration, self._plan, self._tally = place, configuration, plan, tally

    def run(self) -> None:
        """Try everything that the plan wants."""
        for name, command in COMMANDS.items():
            if self._plan.wants(name) and self._configuration.form in command.forms:
                for what in [*self._plan.errors(), *([KILL] if self._plan.kills else [])]:
                    self._try_all(name, command, what)

    def _try_all(self, name: str, command: Command, what: str) -> None:
        world = self._world(command)
        try:
            old = look(f"{world.mnt}/d0")
            outcome, trace = _run(world, command, traced(what), None)
            new = look(f"{world.mnt}/d0") if is_mounted(world.mnt) else old
            if outcome.status or (new != old and not command.changes):
                said = [outcome, *differences(old, new), world.log_since(0)[-300:]]
                self._tally.report(name, None, "fails without a fault", said)
                return
        finally:
            world.close()
        for fault, arguments in self._plan.points(what, trace.calls()):
            if not (command.client and _is_pythons(fault.call, arguments, world.root)):
                self._try(name, command, (old, new), fault, arguments)

    def _world(self, command: Command) -> World:
        world = World(self._place(), self._configuration, 1, command.lower)
        if command.before is not None:
            result = act(command.before, f"{world.mnt}/d0")
            assert not result, result
        return world

    def _try(
        self, name: str, command: Command, views: tuple[View, View], fault: Fault, arguments: str
    ) -> None:
        wrong = partial(self._tally.report, name, fault, call=arguments)
        world = self._world(command)
        try:
            outcome, trace = _run(world, command, [fault.call], fault)
            if fault.error:
                self._tally.failed += 1
                self._tally.missed += not trace.hit
            else:
                self._tally.killed += 1
            if outcome.hangs:
                wrong("hangs", outcome)
            _Judge(world, command, views, fault, wrong).judge(outcome)
        finally:
            world.close()


def _run(world: World, command: Command, calls: Sequence[str], fault: Fault | None) -> tuple[Outcome, Trace]:
    argv = command.argv(world)
    try:
        if command.client:
            status, said, trace = run(argv, _PATIENCE, calls, fault)
        else:
            with world.watching(calls, fault) as trace:
                status, said, _ = run(argv, _PATIENCE)
    except subprocess.TimeoutExpired:
        return Outcome(-1, "it does not end"), Trace()
    return Outcome(abs(status), said.strip()[-300:]), trace


def _is_pythons(call: str, arguments: str, root: Path) -> bool:
    """Tell whether a call is one by which the command's interpreter imports."""
    return call.startswith("open") and arguments.startswith("AT_FDCWD") and str(root) not in arguments


@dataclass(frozen=True)
class _Judge:
    """Looks at a world after a command that something went wrong in."""

    world: World
    command: Command
    views: tuple[View, View]
    fault: Fault
    wrong: Wrong

    @property
    def _kills_server(self) -> bool:
        return not self.fault.error and not self.command.client

    def judge(self, outcome: Outcome) -> None:
        """Judge the living mount, the branches, and the next mount."""
        world = self.world
        if self._kills_server:
            world.kill()
        elif not is_mounted(world.mnt):
            self._unmounted()
        elif not world.is_alive():
            self.wrong("the server died", outcome)
            world.kill()
        else:
            self._look_at_mount(outcome)
            if problem := world.stop():
                self.wrong("umount fails", problem)
        deleting = self.fault.leaves or (self.fault.error != "" and outcome.status == 0)
        swept = self._kills_server or deleting or self.command.words.startswith("umount")
        problems = world.problems(swept=swept)
        if [text for text in problems if not (self._kills_server and text.startswith("pair "))]:
            self.wrong("check", problems)
        mend_pairs(world)
        self._look_at_next_mount()

    def _unmounted(self) -> None:
        process = self.world.union.process
        assert process is not None
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.wrong("the server stays after umount", "")
        self.world.kill()

    def _look_at_mount(self, outcome: Outcome) -> None:
        """The view is old or new; after a failure the mount is writable, and the same command works."""
        old, new = self.views
        directory = f"{self.world.mnt}/d0"
        wanted = (new,) if outcome.status == 0 else (old, new)
        self._compare("neither old nor new", settled(directory, lambda view: view in wanted, 1.3), wanted)
        if outcome.status == 0:
            return
        if not self._is_writable(directory):
            self.wrong("not writable afterwards", outcome)
            return
        repeated, _ = _run(self.world, Command(self.command.words), ["fsync"], None)
        if repeated.status and not (self.command.words.startswith("umount") and is_mounted(self.world.mnt)):
            self.wrong("fails when repeated", [outcome, repeated])
        elif is_mounted(self.world.mnt):
            seen = settled(directory, lambda view: view == new, 1.3)
            self._compare("differs when repeated", seen, (new,))

    def _is_writable(self, directory: str) -> bool:
        """Tell whether a file can be made, as soon as the server has undone what a killed client left."""
        mtime = self.views[0]["."].mtime

        def made() -> bool:
            return act(OPERATIONS["mkdir-new"].act, directory) == ""

        try:
            eventually(made, deadline=10)
        except AssertionError:
            return False
        os.rmdir(f"{directory}/new")
        if mtime != NOW:
            os.utime(directory, ns=(mtime, mtime))
        return True

    def _look_at_next_mount(self) -> None:
        """A new mount has the branches that it is told, and shows old or new; nothing is left in the end."""
        world, (old, new) = self.world, self.views
        world.union.start()
        wanted: Sequence[View] = (old,) if self.command.changes else (old, new)
        seen = look(f"{world.mnt}/d0")
        if self._kills_server:  # a directory's time is put back in another step
            seen = without_times(seen, of_directories=True)
            wanted = [without_times(view, of_directories=True) for view in wanted]
        self._compare("other view after a remount", seen, wanted)
        if problem := world.stop():
            self.wrong("umount fails", problem)
        if problems := world.problems():
            self.wrong("check after the next mount", problems)

    def _compare(self, kind: str, seen: View, wanted: Sequence[View]) -> None:
        if seen in wanted:
            return
        only_times = without_times(seen) in [without_times(view) for view in wanted]
        nearest = min((differences(view, seen) for view in wanted), key=len)
        self.wrong(f"{kind} (times)" if only_times else kind, nearest)
