# SPDX-License-Identifier: Apache-2.0
"""The parser of command lines: argparse, but what is wrong is said in one line, as every other error is."""

import argparse
from typing import NoReturn

from unionfs.program import one_line


class Parser(argparse.ArgumentParser):
    """Ends with `wrong_usage`, and one line that names the help, where argparse would print its summary of all options."""

    wrong_usage = 2

    def error(self, message: str) -> NoReturn:
        program = self.prog.partition(" ")[0]
        self.exit(self.wrong_usage, f"{program}: {one_line(message)}; see {self.prog} --help\n")


class Version(argparse.Action):
    """Print the program's version; importlib.metadata is slow to import, so only on demand."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"{parser.prog} {version('unionfs')}")
        parser.exit()
