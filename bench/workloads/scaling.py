# SPDX-License-Identifier: Apache-2.0
"""How figures grow with the number of layers."""

from __future__ import annotations

import os
from collections.abc import Callable

from bench.machine.client import Figures, Place, expect, time_each
from bench.machine.layers import Layers, pattern
from bench.workloads import listing
from bench.workloads.model import Figure, MiB, Workload

_FILES = 256


def _name(number: int) -> str:
    return f"spread/d{number % 4}/f{number}"


def _build(layers: Layers) -> None:
    for number in range(_FILES):
        layers.write(_name(number), pattern(number, 64), number)


def _stat_over(figure: str) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        place.drop_dentries()
        names = [place.path(_name(number)) for number in range(_FILES)]
        sizes = 0

        def stat(number: int) -> None:
            nonlocal sizes
            sizes += os.stat(names[number]).st_size

        sample = time_each(place, stat, count=_FILES)
        expect(sizes == _FILES * 64, "stat gave wrong sizes")
        return {figure: sample}

    return run


def _layers(count: int, suite: str = "scaling") -> Workload:
    figure = f"stat-{count}-layers"
    shown = Figure(
        figure, f"stat over {count} layers", state="dentries dropped", curve="stat over layers", x=count
    )
    return Workload(
        figure,
        suite,
        (shown,),
        _stat_over(figure),
        _build,
        layers=count,
        size=2 * MiB,
        seconds=0.1 + count / 500,
        rounds=3,
    )


WORKLOADS = (*(_layers(count) for count in (1, 2, 4, 8, 16, 32, 64, 128, 500)), *listing.SCALING)
