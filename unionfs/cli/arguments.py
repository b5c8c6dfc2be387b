# SPDX-License-Identifier: Apache-2.0
"""The parser of command lines: argparse, but what is wrong is said in one line, as every other error is."""

import argparse
import sys
from typing import Any, NoReturn

import unionfs
from unionfs.program import one_line


class Parser(argparse.ArgumentParser):
    """Ends with `wrong_usage`, and one line that names the help, where argparse would print its summary of all options."""

    wrong_usage = 2

    # The library's own has three overloads; nobody calls it in the way of the third.
    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Complain of the first unknown option by its name alone, before argparse finds that some word is missing."""
        words = list(sys.argv[1:] if args is None else args)
        if words and self._is_unknown(words[0]):
            self.error(f"unknown option {words[0]}")
        parsed, rest = super().parse_known_args(words, namespace)
        unknown = next((word for word in rest if self._is_unknown(word)), None)
        if unknown is not None:
            self.error(f"unknown option {unknown}")
        return parsed, rest

    def _is_unknown(self, word: str) -> bool:
        name = word.partition("=")[0]
        return (
            name.startswith("--")
            and name != "--"
            and not any(known.startswith(name) for known in self._option_string_actions)
        )

    def error(self, message: str) -> NoReturn:
        program = self.prog.partition(" ")[0]
        self.exit(self.wrong_usage, f"{program}: {one_line(message)}; see {self.prog} --help\n")


class Version(argparse.Action):
    """Print the program's version."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{parser.prog} {unionfs.__version__}")
        parser.exit()
