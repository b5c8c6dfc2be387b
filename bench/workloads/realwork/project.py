# SPDX-License-Identifier: Apache-2.0
"""make and a C compiler: build a project whose sources are in the layers, with one job, with two, and with nothing to do."""

from __future__ import annotations

import os
import re

from bench.machine.client import Figures, Place, Timing, expect
from bench.machine.layers import Layers
from bench.workloads.model import Figure, Workload
from bench.workloads.realwork.command import command, sample, timed

_SOURCES = 36
_FUNCTIONS = 25  # a source file
_HEADERS = 24
_MAKEFILE = f"""\
OUT ?= out
OBJECTS := $(patsubst %,$(OUT)/m%.o,$(shell seq 0 {_SOURCES - 1})) $(OUT)/main.o
$(OUT)/program: $(OBJECTS)
\t$(CC) -o $@ $^
$(OUT)/%.o: src/%.c | $(OUT)
\t$(CC) -O1 -pipe -MMD -Iplatform -Ioptional -Iinclude -c -o $@ $<
$(OUT):
\tmkdir -p $@
-include $(OBJECTS:.o=.d)
"""


def _source(number: int) -> str:
    """Each includes a third of the headers; the compiler looks for them in two other directories first."""
    headers = "".join(f'#include "h{n}.h"\n' for n in range(number % 3, _HEADERS, 3))
    functions = "\n".join(
        f"static int part{i}(int x) {{ int s = 0; while (x > 0) s += x-- * {i + 1}; return s; }}"
        for i in range(_FUNCTIONS)
    )
    total = " + ".join(f"part{i}(x)" for i in range(_FUNCTIONS))
    return f"#include <stdio.h>\n#include <stdlib.h>\n{headers}{functions}\nint m{number}(int x) {{ return {total}; }}\n"


def _main() -> str:
    declared = "".join(f"int m{number}(int);\n" for number in range(_SOURCES))
    total = " + ".join(f"m{number}({number})" for number in range(_SOURCES))
    return f'#include <stdio.h>\n{declared}int main(void) {{ printf("%d\\n", {total}); return 0; }}\n'


def _answer() -> int:
    """Return what the program prints: every part sums 1 to x, times i + 1."""
    weights = sum(range(1, _FUNCTIONS + 1))
    return sum(weights * x * (x + 1) // 2 for x in range(_SOURCES))


def _build_sources(layers: Layers) -> None:
    layers.write("project/Makefile", _MAKEFILE.encode())
    layers.write("project/src/main.c", _main().encode())
    for number in range(_SOURCES):
        layers.write(f"project/src/m{number}.c", _source(number).encode(), number)
    for number in range(_HEADERS):
        text = f"#pragma once\ntypedef struct {{ int a; char b[{number + 1}]; }} t{number};\n"
        layers.write(f"project/include/h{number}.h", text.encode(), number)
    for name in ("platform", "optional"):
        layers.write(f"project/{name}/README", b"headers of other systems\n")


def _make(place: Place, jobs: int) -> tuple[Timing, str]:
    with timed(place) as timing:
        said = command(place, "make", "-C", "project", f"-j{jobs}", f"OUT=out{jobs}", "CC=cc")
    return timing, said.decode()


def _expect_built(place: Place, jobs: int) -> None:
    """The program answers right, from the target and from the branch, and nothing is missing beside it."""
    for directory in (place.mount, place.upper):
        built = directory / f"project/out{jobs}"
        answer = command(place, built / "program")
        expect(answer == b"%d\n" % _answer(), f"{built}/program gives a wrong answer")
        objects = [name for name in os.listdir(built) if re.fullmatch(r"(m\d+|main)\.o", name)]
        expect(len(objects) == _SOURCES + 1, f"{len(objects)} of {_SOURCES + 1} objects are in {built}")


def _run(place: Place) -> Figures:
    one, _ = _make(place, 1)
    _expect_built(place, 1)
    two, _ = _make(place, 2)
    _expect_built(place, 2)
    place.drop_dentries()
    idle, said = _make(place, 2)
    expect("up to date" in said, "make builds again what has not changed")
    return {
        "make-j1": sample(one, _SOURCES + 2),
        "make-j2": sample(two, _SOURCES + 2),
        "make-nothing": sample(idle, 1),
    }


WORKLOADS = (
    Workload("compile", "realwork", (
        Figure("make-j1", f"make of {_SOURCES + 1} C files, one job", state="warm"),
        Figure("make-j2", "the same with two jobs", state="warm"),
        Figure("make-nothing", "make with nothing to do", state="dentries dropped")), _run, _build_sources,
        programs=(("make", "make"), ("cc", "gcc")), limit=180, seconds=3.5),
)  # fmt: skip
