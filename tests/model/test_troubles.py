# SPDX-License-Identifier: Apache-2.0
"""The union against a plain directory, while the server is killed, branches are changed directly and descriptors run out."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.budget import FUZZ_SECONDS, SETTINGS, repeat
from tests.model.operations import Node, Operation, layers
from tests.model.troubled_world import TroubledWorld
from tests.model.troubles import Turn, behind, crashes, pressure, turns
from tests.support.union import Workshop, few_descriptors

pytestmark = pytest.mark.timeout(0 if FUZZ_SECONDS else 900)
Compare = Callable[..., None]
# So few that the cache of directories, some handles and a client that holds many are more than there are.
FEW_DESCRIPTORS = tuple(few_descriptors(96))


@pytest.fixture
def compare(union: Workshop) -> Iterator[Compare]:
    """Give a function that runs so many examples, with those troubles, on a union mounted in that way."""
    worlds: list[TroubledWorld] = []

    def compare(
        examples: int,
        *troubles: st.SearchStrategy[Operation],
        coherence: str = "aufs",
        udba: str = "reval",
        launcher: tuple[str, ...] = (),
    ) -> None:
        world = TroubledWorld(union, coherence, udba, launcher)
        worlds.append(world)

        @settings(SETTINGS, max_examples=examples)
        @given(layers, turns(union.session, *troubles))
        def run(content: list[dict[str, Node]], steps: list[Turn]) -> None:
            world.troubled_example(content, steps)

        def once() -> None:
            run()
            world.check_after_remount()

        repeat(once)

    yield compare
    for world in worlds:
        world.close()


@pytest.mark.parametrize("coherence", ["aufs", "overlay"])
def test_two_clients_in_turn_equal_one_plain_directory(compare: Compare, coherence: str) -> None:
    """What one process does, the other sees at once, through names, descriptors and mappings."""
    compare(60, coherence=coherence)


@pytest.mark.parametrize(("coherence", "udba"), [("aufs", "reval"), ("overlay", "reval"), ("aufs", "none")])
def test_kill_between_operations_loses_nothing(compare: Compare, coherence: str, udba: str) -> None:
    """After kill -9 and a new mount all is there, by every name; with udba=none what was synchronized."""
    compare(15, crashes, coherence=coherence, udba=udba)


@pytest.mark.parametrize("udba", ["reval", "notify"])
def test_changes_made_on_branches_show(compare: Compare, udba: str) -> None:
    """Files made, replaced, written over and removed directly on any branch come to show as if it was mounted anew."""
    compare(12, behind, coherence="overlay", udba=udba)


def test_few_descriptors_fail_whole_operations(compare: Compare) -> None:
    """An operation for which the server has no descriptor left says so and has done nothing; names stay usable."""
    compare(30, pressure, launcher=FEW_DESCRIPTORS)


def test_all_troubles_together_equal_a_plain_directory(compare: Compare) -> None:
    """Two clients, kills, changed branches and a server of few descriptors, all at once."""
    compare(10, crashes, behind, pressure, coherence="overlay", launcher=FEW_DESCRIPTORS)
