# SPDX-License-Identifier: Apache-2.0
"""The method: interleaved rounds in fresh mounts.

In each round every target is mounted anew and all are mounted at the same time; then each workload runs on target after
target, so that the two values of a pair are measured within seconds of each other. The order of the targets moves on by
one from round to round. Each measurement is a process of its own. Workloads warm up what they time, or make it cold.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from bench.client import Figures, MeasurementError, Place, Sample, call
from bench.layers import Build, Layers, build_layers
from bench.results import FORMAT, Record, Recorder, Results
from bench.targets import BASELINE, Instance, Mounted, Plain, Room, mounted
from bench.workloads.model import Figure, Workload
from unionfs.errors import UserError

_GIVE_UP_AFTER = 2  # rounds in which a target's server died


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `seconds` is a budget: rounds that would exceed it are left out (0: none)."""

    workloads: Sequence[Workload]
    instances: Sequence[Instance]
    rounds: int = 5
    seconds: float = 0.0
    pin: bool = False

    @property
    def baseline(self) -> str:
        """Return the label of the target that ratios are relative to."""
        labels = [instance.label for instance in self.instances]
        return next(
            (i.label for i in self.instances if i.target.name == BASELINE), labels[0] if labels else ""
        )

    @property
    def steps(self) -> int:
        """Return the number of measurements of one round."""
        return len(self.workloads) * len(self.instances)

    def needed_bytes(self) -> int:
        """Return an upper bound of what all targets of one round write, and the layers."""
        largest = max((sum(w.size for w in group) for _, group in self.layouts()), default=0)
        return largest * (len(self.instances) + 1)

    def layouts(self) -> list[tuple[int, list[Workload]]]:
        """Return workloads by their number of layers: those share a mount."""
        ordered = sorted(self.workloads, key=lambda w: w.layers)
        return [(layers, list(group)) for layers, group in groupby(ordered, key=lambda w: w.layers)]


def mount_figure(layers: int) -> Figure:
    """Return the figure of the time from starting a mount until it answers."""
    return Figure(
        f"mount-{layers}", f"mount {layers} layers", state="until it answers", curve="mount over layers", x=layers,
        suite="mount",
    )  # fmt: skip


def figures_of(plan: Plan) -> list[Figure]:
    """Return all figures of a plan in the order they are shown."""
    shown = [replace(figure, suite=w.suite) for w in plan.workloads for figure in w.figures]
    return [*shown, *(mount_figure(layers) for layers, _ in plan.layouts())]


def check_disk(plan: Plan, directory: Path) -> None:
    """UserError when the disk is too small for the plan."""
    free, needed = shutil.disk_usage(directory).free, plan.needed_bytes()
    if free < needed:
        raise UserError(
            f"{directory}: {needed >> 20} MiB are needed, {free >> 20} MiB are free",
            "choose another place with --directory, or fewer targets or suites",
        )


@dataclass(slots=True)
class Run:
    """One run of a plan. `notify` is called after each measurement with the number of rounds expected and its name."""

    plan: Plan
    directory: Path
    recorder: Recorder
    notify: Callable[[int, str], None]
    started: float = field(default_factory=time.monotonic)
    results: Results = field(init=False)
    _skip: set[tuple[str, str]] = field(default_factory=set)
    _deaths: dict[str, int] = field(default_factory=dict)
    _layers: dict[int, Layers] = field(default_factory=dict)
    _rounds: int = 0

    def execute(self, command: str, environment: Record, missing: Sequence[Record]) -> Results:
        """Measure everything; an interrupt ends the run early and keeps what is done."""
        self._rounds = self.plan.rounds
        self.results = Results(self._header(command, environment))
        for record in missing:
            self._failure(-1, "", str(record["target"]), str(record["kind"]), str(record["message"]))
        reason = "complete"
        try:
            for number in range(self.plan.rounds):
                if number and not self._fits(number):
                    reason = "time"
                    break
                self._round(number)
        except KeyboardInterrupt:
            reason = "interrupted"
        seconds = round(time.monotonic() - self.started, 1)
        self.results.add(
            self.recorder.write("end", reason=reason, seconds=seconds, load=list(os.getloadavg()))
        )
        return self.results

    def _header(self, command: str, environment: Record) -> Record:
        targets = [
            {"label": i.label, "name": i.target.name, "title": i.target.title, "version": i.target.version(),
             "slowdown": i.slowdown} for i in self.plan.instances
        ]  # fmt: skip
        figures = [asdict(figure) for figure in figures_of(self.plan)]
        return self.recorder.write(
            "run", format=FORMAT, command=command, environment=environment, rounds=self.plan.rounds,
            pinned=self.plan.pin, baseline=self.plan.baseline, targets=targets, figures=figures,
        )  # fmt: skip

    def _fits(self, done: int) -> bool:
        """Tell whether one more round stays inside the time budget."""
        if not self.plan.seconds:
            return True
        used = time.monotonic() - self.started
        self._rounds = min(self.plan.rounds, int(self.plan.seconds / (used / done)))
        return used + used / done <= self.plan.seconds

    def _round(self, number: int) -> None:
        turn = number % max(len(self.plan.instances), 1)
        order = [*self.plan.instances[turn:], *self.plan.instances[:turn]]
        order = [i for i in order if self._deaths.get(i.label, 0) < _GIVE_UP_AFTER]
        for layers, workloads in self.plan.layouts():
            room = self.directory / f"round{number}-{layers}"
            try:
                with ExitStack() as stack:
                    places = dict(self._mount_all(number, layers, workloads, order, room, stack))
                    for workload in workloads:
                        self._measure_all(number, workload, order, places)
            finally:
                shutil.rmtree(room, ignore_errors=True)

    def _mount_all(
        self,
        number: int,
        layers: int,
        workloads: list[Workload],
        order: list[Instance],
        room: Path,
        stack: ExitStack,
    ) -> Iterator[tuple[str, Mounted]]:
        builds: tuple[Build, ...] = tuple(dict.fromkeys(w.build for w in workloads if w.build))
        if layers not in self._layers:
            self._layers[layers] = build_layers(self.directory / f"layers{layers}", layers, builds)
        cpus = sorted(os.sched_getaffinity(0))
        for instance in order:
            pin = cpus[-1] if self.plan.pin else None
            own = Room(room / instance.label, self._layers[layers], builds, pin)
            try:
                start = time.perf_counter()
                place = stack.enter_context(mounted(instance.target, own))
                place.check_alive()
                seconds = time.perf_counter() - start
            except MeasurementError as error:
                self._died(number, f"mount-{layers}", instance, error)
                continue
            if not isinstance(instance.target, Plain):
                self._sample(
                    number,
                    "mount",
                    instance,
                    mount_figure(layers).name,
                    Sample(seconds * (1 + instance.slowdown)),
                )
            yield instance.label, place

    def _measure_all(
        self, number: int, workload: Workload, order: list[Instance], places: dict[str, Mounted]
    ) -> None:
        for instance in order:
            if instance.label in places and (workload.name, instance.label) not in self._skip:
                self._measure(number, workload, instance, places)
            self.notify(self._rounds, f"{workload.name} on {instance.label}")

    def _measure(
        self, number: int, workload: Workload, instance: Instance, places: dict[str, Mounted]
    ) -> None:
        if workload.needs - instance.target.features:
            lacking = ", ".join(sorted(workload.needs - instance.target.features))
            self._give_up(
                number, workload, instance, "unsupported", f"{instance.target.name} has no {lacking}"
            )
            return
        mounted_place = places[instance.label]
        try:
            figures = self._call(workload, instance, mounted_place)
            mounted_place.check_alive()
        except MeasurementError as error:
            try:
                mounted_place.check_alive()
            except MeasurementError as death:
                del places[instance.label]
                self._died(number, workload.name, instance, death)
                return
            self._give_up(number, workload, instance, error.kind, error.message)
            return
        for name, sample in figures.items():
            self._sample(number, workload.name, instance, name, sample)

    def _call(self, workload: Workload, instance: Instance, place: Mounted) -> Figures:
        server = place.server.pid if place.server else None
        seen = Place(place.directory, place.upper, self.directory, server, instance.slowdown)
        return call(partial(_client, workload, seen, self.plan.pin), workload.limit)

    def _give_up(self, number: int, workload: Workload, instance: Instance, kind: str, message: str) -> None:
        """Record why a workload has no result on a target, and do not try it there again."""
        self._skip.add((workload.name, instance.label))
        self._failure(number, workload.name, instance.label, kind, message)

    def _died(self, number: int, workload: str, instance: Instance, error: MeasurementError) -> None:
        self._deaths[instance.label] = self._deaths.get(instance.label, 0) + 1
        self._failure(number, workload, instance.label, error.kind, error.message)

    def _failure(self, number: int, workload: str, target: str, kind: str, message: str) -> None:
        names = {w.name: [figure.name for figure in w.figures] for w in self.plan.workloads}
        figures = names.get(workload, [workload])
        self.results.add(
            self.recorder.write(
                "failure",
                round=number,
                workload=workload,
                target=target,
                kind=kind,
                message=message,
                figures=figures,
            )
        )

    def _sample(self, number: int, workload: str, instance: Instance, figure: str, sample: Sample) -> None:
        place = {
            "round": number, "workload": workload, "target": instance.label,
            "at": round(time.monotonic() - self.started, 2), "load": os.getloadavg()[0],
        }  # fmt: skip
        self.results.add(self.recorder.sample(place, figure, sample))


def _client(workload: Workload, place: Place, pin: bool) -> Figures:
    """Run a workload in the client's process; a pinned one shares no processor with the server where there are two."""
    if pin:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return workload.run(place)
