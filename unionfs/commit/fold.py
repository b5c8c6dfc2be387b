# SPDX-License-Identifier: Apache-2.0
"""Fold one branch into the one below it: copy everything aside, put it in place by renames, and take it back on an error.

All that needs space, or reads what may not be readable, is done in a stage before the first entry of the target changes. What the
target had moves into the stage, from where an error puts it back; who is killed leaves that, and a target which the branch above
it still covers. Works on the branches' own directories, from descriptor to descriptor. Knows nothing of mounts.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.metadata import copy_metadata, list_xattrs
from unionfs.commit.fold_stage import FoldStages, Stage
from unionfs.kernel import syscalls
from unionfs.kernel.syscalls import LIST_DIRECTORY

Lowers = Sequence[tuple[OpenBranch, int]]


class FoldError(OSError):
    """An error that names the entry it happened to."""


@dataclass(slots=True)
class Summary:
    """What a fold does, in numbers of entries."""

    copied: int = 0
    removed: int = 0
    whiteouts: int = 0


@dataclass(slots=True)
class Step:
    """One rename between the stage and a directory of the target: bring `staged` as `name`, or take `name` away."""

    name: bytes
    staged: bytes
    bring: bool
    swap: bool  # what the target has goes into the stage

    def do(self, stage_fd: int, fd: int) -> None:
        """Take the step; OSError leaves things as they were."""
        if self.swap:
            _exchange(stage_fd, self.staged, fd, self.name)
        elif self.bring:
            os.rename(self.staged, self.name, src_dir_fd=stage_fd, dst_dir_fd=fd)
        else:
            os.rename(self.name, self.staged, src_dir_fd=fd, dst_dir_fd=stage_fd)

    def undo(self, stage_fd: int, fd: int) -> None:
        """Take it back."""
        Step(self.name, self.staged, not self.bring, self.swap).do(stage_fd, fd)


def _exchange(stage_fd: int, staged: bytes, fd: int, name: bytes) -> None:
    try:
        syscalls.renameat2(staged, name, src_dir_fd=stage_fd, dst_dir_fd=fd, flags=syscalls.RENAME_EXCHANGE)
        return
    except OSError as error:
        if not syscalls.is_unsupported(error):
            raise
    aside = staged + b".aside"
    os.rename(name, aside, src_dir_fd=fd, dst_dir_fd=stage_fd)
    try:
        os.rename(staged, name, src_dir_fd=stage_fd, dst_dir_fd=fd)
    except BaseException:
        os.rename(aside, name, src_dir_fd=stage_fd, dst_dir_fd=fd)
        raise
    os.rename(aside, staged, src_dir_fd=stage_fd, dst_dir_fd=stage_fd)


@dataclass(slots=True)
class Merge:
    """A directory that both branches have and whose copies become one: what is to be done in it, and how far that is."""

    name: bytes
    stage: Stage
    former: bytes  # a directory in the stage that keeps the attributes which the target's has
    steps: list[Step] = field(default_factory=list)
    children: list[Merge] = field(default_factory=list)
    begun: bool = False
    done: int = 0


class Fold:
    """Folds `top` into `target`; `lower` are the branches below that. A context manager that owns the stages.

    `prepare`, then `publish`, then `keep` or an exception: on that the target is put back as it was. `failures` tells what could
    not be put back or removed. Errors name the entry by its path in the target.
    """

    def __init__(self, top: OpenBranch, target: OpenBranch, lower: Sequence[OpenBranch]) -> None:
        self._top, self._target, self._lower = top, target, lower
        self._stages = FoldStages(target)
        self._root: Merge | None = None
        self._kept = False
        self._path = [os.fsencode(target.path)]
        self.summary = Summary()
        self.failures: list[OSError] = []

    def __enter__(self) -> Fold:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept and self._root is not None:
            with _listing(self._target.root, b".") as target:
                self._undo(self._root, target)
        if self._kept or not self.failures:
            self.failures += self._stages.remove()
        self._stages.close()

    def keep(self) -> None:
        """Let the target stay as it is now."""
        self._kept = True

    # -- copying aside ------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Copy everything into stages and bring it to the disk; the target stays as it is. ENOSPC, EIO, EPERM …"""
        with contextlib.ExitStack() as stack:
            top = stack.enter_context(_listing(self._top.root, b"."))
            target = stack.enter_context(_listing(self._target.root, b"."))
            lower = [(one, stack.enter_context(_listing(one.root, b"."))) for one in self._lower]
            self._root = self._merge(b".", top, target, lower)
        self._stages.forget_links()
        self._stages.sync()

    def _merge(self, name: bytes, top: int, target: int, lower: Lowers) -> Merge:
        place = self._stages.of(target)
        merge = Merge(name, place, place.new_name())
        with self._stages.directory(place.fd, merge.former) as former:
            copy_metadata(target, former, os.fstat(target), self._target)
        if _is_opaque(target, b"."):
            lower = ()
        entries = _entries(top)
        for entry in entries:
            with self._at(entry):
                if not entry.startswith(whiteout.PREFIX):
                    self._plan_entry(merge, entry, top, target, lower)
                elif entry.removeprefix(whiteout.PREFIX) not in entries:  # a pair is repaired as `check` does
                    self._plan_hiding(merge, entry, target, lower)
        return merge

    def _plan_hiding(self, merge: Merge, mark: bytes, target: int, lower: Lowers) -> None:
        """Plan a whiteout: the target's entry goes, and what lies below it stays hidden."""
        name = mark.removeprefix(whiteout.PREFIX)
        if whiteout.exists(target, name) is not None:
            merge.steps.append(Step(name, merge.stage.new_name(), bring=False, swap=False))
            self.summary.removed += 1
        if _is_below(lower, name) and whiteout.exists(target, mark) is None:
            merge.steps.append(Step(mark, merge.stage.whiteout(), bring=True, swap=False))
            self.summary.whiteouts += 1

    def _plan_entry(self, merge: Merge, name: bytes, top: int, target: int, lower: Lowers) -> None:
        status = os.stat(name, dir_fd=top, follow_symlinks=False)
        present = whiteout.exists(target, name)
        hidden = whiteout.has_mark(target, name)
        if stat.S_ISDIR(status.st_mode):
            cut = hidden or _is_opaque(top, name)
            if present is not None and stat.S_ISDIR(present.st_mode) and not cut:
                with _same(name, top, target) as (upper, under), _below(lower, name) as further:
                    merge.children.append(self._merge(name, upper, under, further))
                return
            staged = merge.stage.new_name()
            with _below(lower, name) as further:
                self._copy_directory(name, top, merge.stage, merge.stage.fd, staged, further, cut=cut)
        else:
            staged = merge.stage.new_name()
            self._copy_file(name, status, top, merge.stage, merge.stage.fd, staged)
        merge.steps.append(Step(name, staged, bring=True, swap=present is not None))
        if hidden:
            mark = whiteout.PREFIX + name
            merge.steps.append(Step(mark, merge.stage.new_name(), bring=False, swap=False))

    def _copy_directory(
        self, name: bytes, source: int, place: Stage, into: int, new: bytes, lower: Lowers, *, cut: bool
    ) -> None:
        """Copy a directory with all that is in it; `cut`: nothing below the target contributes to it."""
        with self._stages.directory(into, new) as fd, _listing(source, name) as old:
            if cut and lower:
                place.mark(fd, whiteout.OPAQUE)
            lower = () if cut else lower
            for entry in _entries(old):
                with self._at(entry):
                    self._copy_entry(entry, old, place, fd, lower)
            copy_metadata(old, fd, os.fstat(old), self._target)
        self.summary.copied += 1

    def _copy_entry(self, entry: bytes, source: int, place: Stage, into: int, lower: Lowers) -> None:
        if entry.startswith(whiteout.PREFIX):
            if _is_below(lower, entry.removeprefix(whiteout.PREFIX)):
                place.mark(into, entry)
                self.summary.whiteouts += 1
            return
        status = os.stat(entry, dir_fd=source, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            self._copy_file(entry, status, source, place, into, entry)
            return
        with _below(lower, entry) as further:
            cut = _is_opaque(source, entry)
            self._copy_directory(entry, source, place, into, entry, further, cut=cut)

    def _copy_file(
        self, name: bytes, status: os.stat_result, source: int, place: Stage, into: int, new: bytes
    ) -> None:
        if not place.link(status, into, new):
            place.copy(name, status, source, into, new)
        self.summary.copied += 1

    # -- putting in place ---------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Put everything in place in the target and bring that to the disk."""
        assert self._root is not None
        with _same(b".", self._top.root, self._target.root) as (top, target):
            self._publish(self._root, top, target)
        self._stages.sync()

    def _publish(self, merge: Merge, top: int, target: int) -> None:
        merge.begun = True
        for step in merge.steps:
            with self._at(step.name):
                step.do(merge.stage.fd, target)
            merge.done += 1
        for child in merge.children:
            with self._at(child.name), _same(child.name, top, target) as (upper, under):
                self._publish(child, upper, under)
        self._carry(top, target)
        self.summary.copied += 1

    def _carry(self, source: int, target: int) -> None:
        """Give a directory all attributes of another one, and none beside them."""
        wanted = list_xattrs(source)
        for name in list_xattrs(target):
            if name not in wanted and not whiteout.is_private_xattr(name, overlay=self._target.overlay):
                os.removexattr(whiteout.proc_path(target), name)
        copy_metadata(source, target, os.fstat(source), self._target)

    def _undo(self, merge: Merge, target: int) -> None:
        if not merge.begun:
            return
        for child in reversed(merge.children):
            with self._noting(), self._at(child.name), _listing(target, child.name) as under:
                self._undo(child, under)
        for step in reversed(merge.steps[: merge.done]):
            with self._noting(), self._at(step.name):
                step.undo(merge.stage.fd, target)
        with self._noting(), _listing(merge.stage.fd, merge.former) as former:
            self._carry(former, target)

    @contextlib.contextmanager
    def _at(self, name: bytes) -> Iterator[None]:
        """Let errors in the block name an entry of the directory that is at work."""
        self._path.append(name)
        try:
            yield
        except FoldError:
            raise
        except OSError as error:
            raise FoldError(error.errno, error.strerror, os.path.join(*self._path)) from error
        finally:
            self._path.pop()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Go on after an error: what can be put back is."""
        try:
            yield
        except OSError as error:
            text = f"cannot be put back: {error.strerror}"
            self.failures.append(FoldError(error.errno, text, error.filename))


def _entries(fd: int) -> list[bytes]:
    """Return the names in a directory without bookkeeping; an opaque mark is asked for where it counts."""
    names = (os.fsencode(name) for name in os.listdir(fd))
    return sorted(name for name in names if not name.startswith(whiteout.META_PREFIX))


def _is_opaque(dirfd: int, name: bytes) -> bool:
    return whiteout.exists(dirfd, name + b"/" + whiteout.OPAQUE) is not None


@contextlib.contextmanager
def _listing(dirfd: int, name: bytes) -> Iterator[int]:
    """Open a directory to list it for the length of the block."""
    fd = os.open(name, LIST_DIRECTORY, dir_fd=dirfd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _same(name: bytes, upper: int, under: int) -> Iterator[tuple[int, int]]:
    """Open the directory `name` in both directories."""
    with _listing(upper, name) as first, _listing(under, name) as second:
        yield first, second


@contextlib.contextmanager
def _below(lower: Lowers, name: bytes) -> Iterator[Lowers]:
    """Open the directories `name` of the branches below the target that have one."""
    with contextlib.ExitStack() as stack:
        found = []
        for branch, fd in lower:
            status = whiteout.exists(fd, name)
            if status is not None and stat.S_ISDIR(status.st_mode):
                found.append((branch, stack.enter_context(_listing(fd, name))))
        yield found


def _is_below(lower: Lowers, name: bytes) -> bool:
    return any(whiteout.exists(fd, name) is not None for _, fd in lower)
