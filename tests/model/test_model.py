# SPDX-License-Identifier: Apache-2.0
"""The union against a plain directory: the same operations, the same outcome, errno and resulting tree."""

import stat

import pytest
from hypothesis import given, settings

from tests.model.budget import FUZZ_SECONDS, SETTINGS, repeat
from tests.model.operations import Node, Operation, layers, operations
from tests.model.world import World
from tests.support import tree
from tests.support.union import Workshop


def compare(world: World, examples: int) -> None:
    """Run that many examples, and as many again and again while there is time to fuzz."""

    @settings(SETTINGS, max_examples=examples)
    @given(layers, operations(world.union.session))
    def run(content: list[dict[str, Node]], steps: list[Operation]) -> None:
        world.example(content, steps)

    def round_() -> None:
        run()
        world.check_after_remount()

    repeat(round_)


@pytest.mark.timeout(0 if FUZZ_SECONDS else 900)
@pytest.mark.parametrize("coherence", ["aufs", "overlay"])
def test_random_operations_equal_a_plain_directory(union: Workshop, coherence: str) -> None:
    """Outcome, errno and tree agree; lower branches stay; the layers flatten to the same; a remount changes nothing."""
    compare(World(union, coherence), 200)


def test_random_operations_where_nobody_else_changes_branches(union: Workshop) -> None:
    """The same with udba=none: what is known of branches is not asked again, and is right all the same."""
    compare(World(union, udba="none"), 80)


def test_layers_and_marks_alone_equal_their_flat_application(union: Workshop) -> None:
    """Without any operation, thousands of random stacks show what applying their layers gives."""
    world = World(union)

    @settings(SETTINGS, max_examples=200)
    @given(layers)
    def run(content: list[dict[str, Node]]) -> None:
        world.example(content, [])

    run()
    assert tree.names(world.rw) == set()
    assert stat.S_ISDIR(world.union.mnt.stat().st_mode)
