# SPDX-License-Identifier: Apache-2.0
"""A second process that carries operations out, with descriptors and mappings of its own: `python -m tests.model.client ROOT`."""

import pickle
import subprocess
import sys
from pathlib import Path

from tests.model.operations import Operation
from tests.model.runner import Runner

REPOSITORY = Path(__file__).parents[2]


class Client:
    """Speaks to such a process; it ends when told, and with the one that started it."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.model.client", str(root)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def turn_to(self, root: Path) -> None:
        """Work under another root from now on, with nothing open."""
        self._ask(("turn_to", str(root)))

    def run(self, operation: Operation) -> object:
        """Carry one operation out there; return what Runner.run returns."""
        return self._ask(operation)

    def drop(self) -> None:
        """Close all, whatever closing says: the server may be dead."""
        self._ask(("drop",))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, operation: Operation) -> object:
        assert self._process.stdin and self._process.stdout
        pickle.dump(operation, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


def _serve(root: str) -> None:
    runner = Runner(Path(root))
    while True:
        try:
            operation = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: object = None
        if operation[0] == "drop":
            runner.drop()
        elif operation[0] == "turn_to":
            runner.drop()
            runner.root = operation[1]
        else:
            answer = runner.run(operation)
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
