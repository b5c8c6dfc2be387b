# SPDX-License-Identifier: Apache-2.0
"""What a run measures: workloads on targets, in layouts that share mounts, within rounds, space and time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from bench import runtimes, targets
from bench.machine.launcher import FILESYSTEM, RUNTIME
from bench.machine.layers import Build
from bench.targets import ROOTLESS_BASELINE, Instance
from bench.workloads.model import Figure, Workload
from unionfs.errors import UserError

_BASELINES = {FILESYSTEM: targets.BASELINE, RUNTIME: runtimes.BASELINE}
_LONG_SECONDS = 1.0  # for one target
_MOUNT_SECONDS = 0.25  # one target, up and down
_BUILD_SECONDS_A_BYTE = 1 / (500 << 20)


@dataclass(frozen=True, slots=True)
class Layout:
    """Workloads on targets of one `kind` that share mounts over `layers` layers; `group` and `only` are theirs."""

    kind: str
    layers: int
    group: str
    only: str
    builds: tuple[Build, ...]
    workloads: tuple[Workload, ...]

    @property
    def files(self) -> str:
        """Return the name of the layers' files: layouts of one group have them in common."""
        return f"{self.layers}{self.group and '-' + self.group}"

    @property
    def name(self) -> str:
        """Return a name for directories."""
        return f"{self.files}{self.only and '-' + self.only}"

    @property
    def shows_mounting(self) -> bool:
        """Tell whether the time of its mounts is shown: once for each number of layers."""
        return self.kind == FILESYSTEM and not self.group and not self.only


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `seconds` is a budget: rounds that would exceed it are left out (0: none).

    `few` bounds the rounds of targets that are variants of others and of workloads that take long (0: as all).
    """

    workloads: Sequence[Workload]
    instances: Sequence[Instance]
    rounds: int = 5
    seconds: float = 0.0
    pin: bool = False
    few: int = 0

    @property
    def baseline(self) -> str:
        """Return the label of the target that ratios are relative to."""
        return self._usual(self.instances[0].target.kind) if self.instances else ""

    def baseline_of(self, instance: Instance) -> str:
        """Return the label that this target's ratios are relative to: a rootless one's is rootless, if measured."""
        rootless = self._first(ROOTLESS_BASELINE) if instance.target.rootless else ""
        return rootless if rootless not in ("", instance.label) else self._usual(instance.target.kind)

    def _usual(self, kind: str) -> str:
        return self._first(_BASELINES[kind]) or self.on(kind)[0].label

    @property
    def baselines(self) -> dict[str, str]:
        """Return, by suite, the labels of baselines that some suites want for themselves."""
        wanted = {w.suite: self._first(w.baseline) for w in self.workloads if w.baseline}
        return {suite: label for suite, label in wanted.items() if label}

    def on(self, kind: str) -> list[Instance]:
        """Return the targets of a kind."""
        return [instance for instance in self.instances if instance.target.kind == kind]

    def _first(self, name: str) -> str:
        return next((i.label for i in self.instances if i.target.name == name), "")

    def rounds_of(self, instance: Instance) -> int:
        """Return how many rounds a target takes part in."""
        return min(self.rounds, self.few or self.rounds) if instance.target.variant else self.rounds

    def _rounds_of_workload(self, workload: Workload) -> int:
        bound = workload.rounds or self.rounds
        return min(bound, self.few) if self.few and workload.seconds >= _LONG_SECONDS else bound

    @property
    def steps(self) -> int:
        """Return the number of measurements of one round."""
        return sum(len(self.on(workload.kind)) for workload in self.workloads)

    def layouts(self, number: int = 0) -> list[Layout]:
        """Return the layouts of round `number`."""
        ordered = sorted(self.workloads, key=_layout_of)
        builds: dict[tuple[str, int, str], dict[Build, None]] = {}
        for workload in ordered:
            if workload.build:
                builds.setdefault(_layout_of(workload)[:3], {})[workload.build] = None
        due = [w for w in ordered if number < self._rounds_of_workload(w)]
        return [
            Layout(*key, tuple(builds.get(key[:3], {})), tuple(group))
            for key, group in groupby(due, key=_layout_of)
        ]

    def needed_bytes(self) -> int:
        """Return an upper bound of what is on the disk at one time: all targets of one layout, and the layers."""
        layouts = self.layouts()
        layers = {layout.files: sum(w.size for w in layout.workloads) for layout in layouts}
        sets = 1 + any(i.target.rootless for i in self.instances)
        largest = max((self._written(layout) for layout in layouts), default=0)
        return sets * sum(layers.values()) + largest

    def _written(self, layout: Layout) -> int:
        copies = [i for i in self.on(layout.kind) if not (layout.group and i.target.rootless)]
        stays = 0 if layout.group else sum(w.size for w in layout.workloads) * len(copies)
        return stays + max(w.temporary for w in layout.workloads)

    def expected_seconds(self) -> float:
        """Estimate how long the run takes on a machine like that of docs/benchmarks.md."""
        return sum(map(self.round_seconds, range(self.rounds)))

    def round_seconds(self, number: int) -> float:
        """Estimate how long round `number` takes; the first one builds the layers."""
        total = 0.0 if number else self.needed_bytes() * _BUILD_SECONDS_A_BYTE
        for layout in self.layouts(number):
            total += sum(w.seconds for w in layout.workloads if w.together)
            for instance in self.on(layout.kind):
                if number < self.rounds_of(instance):
                    total += self._seconds_of(layout, instance)
        return total

    def _seconds_of(self, layout: Layout, instance: Instance) -> float:
        if instance.target.kind != layout.kind:
            return 0.0
        features = instance.target.features
        done = [w.seconds for w in layout.workloads if not w.together and w.needs <= features]
        return sum(done) + _MOUNT_SECONDS if done else 0.0


def _layout_of(workload: Workload) -> tuple[str, int, str, str]:
    return workload.kind, workload.layers, workload.group, workload.name if workload.fresh else ""


def mount_figure(layers: int) -> Figure:
    """Return the figure of the time from starting a mount until it answers."""
    return Figure(
        f"mount-{layers}", f"mount {layers} layers", state="until it answers", curve="mount over layers", x=layers,
        suite="mount",
    )  # fmt: skip


def figures_of(plan: Plan) -> list[Figure]:
    """Return all figures of a plan in the order they are shown."""
    shown = [replace(figure, suite=w.suite, kind=w.kind) for w in plan.workloads for figure in w.figures]
    return [*shown, *(mount_figure(layout.layers) for layout in plan.layouts() if layout.shows_mounting)]


def check_space(plan: Plan, directory: Path, *, in_memory: bool) -> None:
    """UserError when the disk, or the memory for a tmpfs, is too small for the plan."""
    free = _free_memory() if in_memory else shutil.disk_usage(directory).free
    needed = plan.needed_bytes()
    if free < needed:
        raise UserError(
            f"{'memory' if in_memory else directory}: {needed >> 20} MiB are needed, {free >> 20} MiB are free",
            "choose another place with --directory, or fewer targets or suites",
        )


def check_reach(plan: Plan, directory: Path) -> None:
    """UserError when rootless targets are to be measured where an unprivileged user may not go."""
    closed = [
        path
        for path in (directory.resolve(), *directory.resolve().parents)
        if not path.stat().st_mode & 0o001
    ]
    if closed and any(instance.target.rootless for instance in plan.instances):
        raise UserError(
            f"{closed[-1]} is closed to unprivileged users: rootless targets cannot be measured in {directory}",
            "choose another place with --directory",
        )


def _free_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
