# SPDX-License-Identifier: Apache-2.0
"""The program `unionrt`: global options, the choice of a command, and the one place where errors become words.

Only the module of the command asked for is imported.
"""

from __future__ import annotations

import os
import sys

from runtime.oci import SPEC, log, module_cache, options
from runtime.oci.failure import FAILED, Failure, describe
from runtime.oci.settings import GLOBAL, from_options
from runtime.oci.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

NAME = "unionrt"
FEATURES = "+SECCOMP +CGROUPS +CAP +EBPF +IDMAP +TIMENS +SYSTEMD_NOTIFY"

# In the order of a container's life; modules named otherwise than their command are after it.
COMMANDS = (
    "create start run exec state list ps pause resume update events kill delete spec features checkpoint restore"
).split()
_MODULES = {"exec": "exec_"}
_USAGE_ERROR = 1


def main(arguments: list[str]) -> NoReturn:
    """Run the program and leave; the interpreter's own end would take another millisecond."""
    status = FAILED
    try:
        _settle()
        status = _run(arguments)
        _flush()
    except Failure as failure:
        log.error(failure.line())
        status = failure.status
    except BrokenPipeError:
        status = FAILED
    except OSError as error:
        log.error(describe(error))
        _show_trace()
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        log.error(f"internal error: {type(error).__name__}: {error}")
        _show_trace()
    finally:
        os._exit(status)


def _settle() -> None:
    """Make up for what the caller may have left unusual: closed standard descriptors, SIGCHLD ignored.

    Files of ours would take the descriptors' numbers, and what is written there. Nobody could wait for a child's end.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _flush() -> None:
    """Write out what was printed, or say that it is lost."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"standard output: {describe(error)}") from None


def load(name: str) -> Any:
    """Return the module of a command."""
    return __import__(_module(name), fromlist=["run"])


def _module(name: str) -> str:
    return f"runtime.oci.commands.{_MODULES.get(name, name)}"


def _run(arguments: list[str]) -> int:
    given, rest = options.parse_global(arguments, GLOBAL)
    level = "debug" if given.flag("debug") else given.text("log-level")
    log.configure(given.text("log"), given.text("log-format"), level)
    if given.flag("version"):
        return _show_version()
    if given.flag("help") or not rest or rest[0] == "help":
        return _show_help(rest[1:], asked=given.flag("help") or bool(rest))
    name = rest[0]
    if name not in COMMANDS and rest[-1] in ("-h", "--help"):
        return _show_help([name], asked=True)
    if name == "version":
        return _show_version()
    if name not in COMMANDS:
        raise Failure(f"unknown command {name!r}", f"see {NAME} --help", status=_USAGE_ERROR)
    module_cache.load(_module(name))
    module = load(name)
    parsed = options.parse(rest[1:], module.COMMAND)
    if parsed.flag("help"):
        return _show_help([name], asked=True)
    return int(module.run(from_options(given), parsed))


def _show_version() -> int:
    from unionfs import __version__ as version  # nothing else that starts a container needs the package

    print(f"{_called()} version {version}\ncommit: {version}\nspec: {SPEC}\n{FEATURES}")
    return 0


def _called() -> str:
    """Return the name that the caller knows us by: where we stand in for a peer, scripts look for its name."""
    return os.path.basename(sys.argv[0]) or NAME


def _show_help(names: list[str], *, asked: bool) -> int:
    from runtime.oci import help

    if names and names[0] in COMMANDS:
        print(help.of_command(_called(), load(names[0]).COMMAND))
    elif names:
        raise Failure(f"No help topic for '{names[0]}'")
    else:
        print(help.of_program(_called(), GLOBAL, [load(name).COMMAND for name in COMMANDS]))
    return 0 if asked else _USAGE_ERROR


def _show_trace() -> None:
    if log.is_debug():
        import traceback

        traceback.print_exc()
