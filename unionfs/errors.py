# SPDX-License-Identifier: Apache-2.0
"""The one exception that people see: what failed, with the path they gave, and what to do about it."""


class UserError(Exception):
    """Say in one line what failed and, in a second, what to do; `status` is the program's exit code.

    Programs print it as `PROGRAM: message` (and the hint after a semicolon) and never with a traceback.
    """

    def __init__(self, message: str, hint: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status

    def line(self) -> str:
        """Return the text as one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(UserError):
    """The command line is wrong: a word in it, an option of a mount; nothing was tried. Programs exit with 2."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, status=2)
