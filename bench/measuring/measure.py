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
from pathlib import Path

from bench.machine import interrupt, programs, unprivileged
from bench.machine.client import Client, Figures, MeasurementError, Place, Sample, call
from bench.machine.layers import Layers, build_layers
from bench.machine.requests import Counter
from bench.machine.unprivileged import User
from bench.measuring.plan import Layout, Plan, figures_of, mount_figure
from bench.results.results import FORMAT, Record, Recorder, Results
from bench.targets import Instance
from bench.targets.kernel import Plain
from bench.targets.model import SERVER, Mounted, Room, mounted
from bench.workloads.model import Workload

_GIVE_UP_AFTER = 2  # rounds in which a target's server died
_PREPARE_SECONDS = 300.0


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
    _deaths: dict[tuple[str, str], int] = field(default_factory=dict)
    _layers: dict[tuple[str, bool], Layers | MeasurementError] = field(default_factory=dict)
    _prepared: set[tuple[str, bool]] = field(default_factory=set)
    _rounds: int = 0
    _user: User | None = None

    def execute(self, command: str, environment: Record, missing: Sequence[Record]) -> Results:
        """Measure everything; an interrupt ends the run early and keeps what is done."""
        self._rounds = self.plan.rounds
        self.results = Results(self._header(command, environment))
        for record in missing:
            self._failure(-1, "", str(record["target"]), str(record["kind"]), str(record["message"]))
        reason = "complete"
        try:
            with ExitStack() as stack:
                if any(instance.target.rootless for instance in self.plan.instances):
                    self._user = stack.enter_context(unprivileged.user(self.directory / "devices"))
                reason = self._all_rounds()
        except KeyboardInterrupt:
            reason = "interrupted"
        seconds = round(time.monotonic() - self.started, 1)
        self.results.add(
            self.recorder.write("end", reason=reason, seconds=seconds, load=list(os.getloadavg()))
        )
        return self.results

    def _all_rounds(self) -> str:
        for number in range(self.plan.rounds):
            if number and not self._fits(number):
                return "time"
            self._round(number)
        return "complete"

    def _header(self, command: str, environment: Record) -> Record:
        targets = [
            {"label": i.label, "name": i.target.name, "title": i.target.title, "version": i.target.version(),
             "slowdown": i.slowdown, "baseline": self.plan.baseline_of(i),
             "rounds": self.plan.rounds_of(i)} for i in self.plan.instances
        ]  # fmt: skip
        figures = [asdict(figure) for figure in figures_of(self.plan)]
        return self.recorder.write(
            "run", format=FORMAT, command=command, environment=environment, rounds=self.plan.rounds,
            pinned=self.plan.pin, baseline=self.plan.baseline, baselines=self.plan.baselines, targets=targets,
            figures=figures,
        )  # fmt: skip

    def _fits(self, done: int) -> bool:
        """Tell whether one more round stays inside the time budget, at the speed of those `done`."""
        if not self.plan.seconds:
            return True
        used = time.monotonic() - self.started
        slowness = used / max(sum(map(self.plan.round_seconds, range(done))), 0.001)
        self._rounds = done
        for number in range(done, self.plan.rounds):
            used += slowness * self.plan.round_seconds(number)
            if used > self.plan.seconds:
                break
            self._rounds = number + 1
        return self._rounds > done

    def _round(self, number: int) -> None:
        turn = number % max(len(self.plan.instances), 1)
        order = [*self.plan.instances[turn:], *self.plan.instances[:turn]]
        order = [i for i in order if number < self.plan.rounds_of(i)]
        for layout in self.plan.layouts(number):
            room = self.directory / f"round{number}-{layout.name}"
            fitting = [i for i in order if i.target.kind == layout.kind]
            living = [i for i in fitting if self._deaths.get((i.label, layout.name), 0) < _GIVE_UP_AFTER]
            try:
                with ExitStack() as stack:
                    places = dict(self._mount_all(number, layout, living, room, stack))
                    for workload in layout.workloads:
                        self._measure_all(number, layout, workload, living, places)
            finally:
                shutil.rmtree(room, ignore_errors=True)

    def _mount_all(
        self, number: int, layout: Layout, order: list[Instance], room: Path, stack: ExitStack
    ) -> Iterator[tuple[str, Mounted]]:
        for instance in order:
            if not any(w.needs <= instance.target.features for w in layout.workloads):
                continue
            try:
                own = self._room(layout, instance, room)
                start = time.perf_counter()
                place = stack.enter_context(mounted(instance.target, own))
                place.check_alive()
                seconds = time.perf_counter() - start
            except MeasurementError as error:
                self._died(number, layout, mount_figure(layout.layers).name, instance, error)
                continue
            if layout.shows_mounting and not isinstance(instance.target, Plain):
                sample = Sample(seconds * (1 + instance.slowdown))
                self._sample(number, "mount", instance, mount_figure(layout.layers).name, sample)
            yield instance.label, place

    def _room(self, layout: Layout, instance: Instance, room: Path) -> Room:
        """Return the directories for a mount; the first of a layout and a user builds its layers.

        MeasurementError, again for each later one, if they cannot be built.
        """
        user = self._user if instance.target.rootless else None
        key = (layout.files, instance.target.rootless)
        if key not in self._layers:
            directory = self.directory / f"layers{layout.files}{'-rootless' if user else ''}"
            try:
                self._layers[key] = build_layers(directory, layout.layers, layout.builds, user)
            except OSError as error:
                shutil.rmtree(directory, ignore_errors=True)
                self._layers[key] = MeasurementError("failed", f"the layers cannot be made: {error.strerror}")
        layers = self._layers[key]
        if isinstance(layers, MeasurementError):
            raise layers
        pin = max(os.sched_getaffinity(0)) if self.plan.pin else None
        kept = self.directory / f"kept{layout.files}" / instance.label if layout.group else None
        return Room(room / instance.label, layers, layout.builds, pin, user, kept)

    def _measure_all(
        self,
        number: int,
        layout: Layout,
        workload: Workload,
        order: list[Instance],
        places: dict[str, Mounted],
    ) -> None:
        started: list[tuple[Instance, Client]] = []
        for instance in order:
            interrupt.check()
            if self._can_measure(number, workload, instance, places):
                try:
                    self._prepare(workload, places[instance.label])
                    started.append((instance, self._start(workload, instance, places)))
                except MeasurementError as error:
                    self._give_up(number, workload, instance, error.kind, error.message)
            if not workload.together:
                self._finish(number, layout, workload, started, places)
            self.notify(self._rounds, f"{workload.name} on {instance.label}")
        self._finish(number, layout, workload, started, places)

    def _can_measure(
        self, number: int, workload: Workload, instance: Instance, places: dict[str, Mounted]
    ) -> bool:
        if (workload.name, instance.label) in self._skip:
            return False
        lacking = workload.needs - instance.target.features
        if lacking == {SERVER}:
            return False  # there is nothing to measure, as it should be
        if lacking:
            message = f"{instance.target.name} has no {', '.join(sorted(lacking))}"
            self._give_up(number, workload, instance, "unsupported", message)
            return False
        absent = programs.missing_text(workload.programs)
        if absent:
            self._give_up(number, workload, instance, "unsupported", absent)
            return False
        return instance.label in places

    def _start(self, workload: Workload, instance: Instance, places: dict[str, Mounted]) -> Client:
        place = places[instance.label]
        scratch = self._scratch(place)
        seen = Place(
            place.directory, place.upper, scratch, place.server.pid if place.server else None,
            instance.slowdown, tuple(p.server.pid for p in places.values() if p.server), launcher=place.launcher,
        )  # fmt: skip
        return Client(partial(_client, workload, seen, place.user, self.plan.pin), workload.limit)

    def _prepare(self, workload: Workload, place: Mounted) -> None:
        """Have the files made that a workload needs in its scratch directory, by who will use them."""
        key = (workload.name, place.user is not None)
        if workload.prepare is not None and key not in self._prepared:
            call(partial(_prepare, workload.prepare, self._scratch(place), place.user), _PREPARE_SECONDS)
            self._prepared.add(key)

    def _scratch(self, place: Mounted) -> Path:
        """Return where clients of a user may write outside the mount."""
        scratch = self.directory / ("scratch-rootless" if place.user else "scratch")
        if not scratch.exists():
            scratch.mkdir()
            if place.user:
                os.chown(scratch, place.user.uid, place.user.uid)
        return scratch

    def _finish(
        self, number: int, layout: Layout, workload: Workload, started: list[tuple[Instance, Client]],
        places: dict[str, Mounted],
    ) -> None:  # fmt: skip
        while started:
            instance, client = started.pop(0)
            try:
                figures = client.result()
                places[instance.label].check_alive()
            except MeasurementError as error:
                self._failed(number, layout, workload, instance, places, error)
                continue
            for figure in workload.figures:
                if figure.name in figures:
                    self._sample(
                        number, workload.name, instance, figure.name, figures[figure.name], client.seconds
                    )

    def _failed(
        self, number: int, layout: Layout, workload: Workload, instance: Instance, places: dict[str, Mounted],
        error: MeasurementError,
    ) -> None:  # fmt: skip
        try:
            places[instance.label].check_alive()
        except MeasurementError as death:
            del places[instance.label]
            self._died(number, layout, workload.name, instance, death)
        else:
            self._give_up(number, workload, instance, error.kind, error.message)

    def _give_up(self, number: int, workload: Workload, instance: Instance, kind: str, message: str) -> None:
        """Record why a workload has no result on a target, and do not try it there again."""
        self._skip.add((workload.name, instance.label))
        self._failure(number, workload.name, instance.label, kind, message)

    def _died(
        self, number: int, layout: Layout, workload: str, instance: Instance, error: MeasurementError
    ) -> None:
        key = (instance.label, layout.name)
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if workload == mount_figure(layout.layers).name:
            lost = [workload, *(figure.name for w in layout.workloads for figure in w.figures)]
        else:
            lost = []
        self._failure(number, workload, instance.label, error.kind, error.message, lost)

    def _failure(
        self, number: int, workload: str, target: str, kind: str, message: str, lost: Sequence[str] = ()
    ) -> None:
        """Record why figures are missing: those `lost`, or else those of the workload."""
        names = {w.name: [figure.name for figure in w.figures] for w in self.plan.workloads}
        figures = lost or names.get(workload, [workload])
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

    def _sample(
        self, number: int, workload: str, instance: Instance, figure: str, sample: Sample, took: float = 0.0
    ) -> None:
        place = {
            "round": number, "workload": workload, "target": instance.label,
            "at": round(time.monotonic() - self.started, 2), "took": round(took, 3), "load": os.getloadavg()[0],
        }  # fmt: skip
        self.results.add(self.recorder.sample(place, figure, sample))


def _client(workload: Workload, place: Place, user: User | None, pin: bool) -> Figures:
    """Run a workload in the client's process; a pinned one shares no processor with the server where there are two."""
    if pin:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    counter = Counter(place.mount, user) if workload.counted and place.server is not None else None
    drop = unprivileged.privileged(place.drop) if user else place.drop
    if user:
        user.enter()
    return workload.run(replace(place, drop=drop, counter=counter))


def _prepare(prepare: Callable[[Path], object], scratch: Path, user: User | None) -> Figures:
    if user:
        user.enter()
    prepare(scratch)
    return {}
