# SPDX-License-Identifier: Apache-2.0
"""From a checked profile to a BPF program, by libseccomp, which knows every architecture's system calls."""

from __future__ import annotations

import errno

from runtime.oci.failure import Failure
from runtime.oci.seccomp import enosys, profile
from runtime.oci.seccomp.syscalls import ARCH_X32, Library, Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.oci.seccomp.profile import Profile, Rule

_MANY = 32  # libseccomp up to 2.5.4 makes mistakes in a tree of no rules, and a short list is no slower
_TOLERANT = (profile.ALLOW, profile.LOG, profile.TRACE)  # a tracer answers for later calls itself
_LONGEST = 4096  # BPF_MAXINSNS
_INSTRUCTION = 8


def compile_profile(checked: Profile, debug: Callable[[str], None]) -> bytes:
    """Return the program for `checked`. System calls that libseccomp does not know are left out and told to `debug`."""
    try:
        library = Library()
    except OSError as error:
        raise Failure(f"cannot compile linux.seccomp: {error}", "install libseccomp 2.4 or later") from None
    architectures = [_architecture(library, name) for name in checked.architectures]
    rules = library.open(checked.default_action)
    try:
        for token in architectures:
            rules.add_architecture(token)
        if sum(len(rule.names) for rule in checked.rules) > _MANY:
            rules.search_by_tree()
        for rule in checked.rules:
            if rule.action != checked.default_action:  # libseccomp refuses a rule that changes nothing
                _add(library, rules, rule, debug)
        program = rules.program()
    finally:
        rules.close()
    program = _enosys(library, checked, {library.native(), *architectures}) + program
    if len(program) > _LONGEST * _INSTRUCTION:
        raise Failure(
            f"linux.seccomp: {len(program) // _INSTRUCTION} instructions are too many", "name fewer arguments"
        )
    return program


def _architecture(library: Library, name: str) -> int:
    token = library.architecture(name)
    if not token:
        raise Failure(f"linux.seccomp.architectures: 'SCMP_ARCH_{name.upper()}' is not known to libseccomp")
    return token


def _add(library: Library, rules: Rules, rule: Rule, debug: Callable[[str], None]) -> None:
    # Comparisons are alternatives when two look at one argument: what runc does and profiles rely on.
    arguments = [comparison[0] for comparison in rule.comparisons]
    if len(set(arguments)) < len(arguments):
        alternatives = [[comparison] for comparison in rule.comparisons]
    else:
        alternatives = [rule.comparisons]
    for name in rule.names:
        number = library.number(name)
        if number is None:
            debug(f"unknown seccomp syscall {name!r} ignored")
            continue
        for comparisons in alternatives:
            try:
                rules.add(rule.action, number, comparisons)
            except OSError as error:
                raise Failure(f"linux.seccomp: cannot add the rule for {name}: {error.strerror}") from None


def _enosys(library: Library, checked: Profile, architectures: set[int]) -> bytes:
    default = checked.default_action
    if default & profile.ACTION_MASK in _TOLERANT or default == profile.ERRNO | errno.ENOSYS:
        return b""
    largest = {}
    for token in architectures:
        numbers = (library.number(name, token) for rule in checked.rules for name in rule.names)
        largest[token] = max((number for number in numbers if number is not None), default=0)
    largest_x32 = largest.pop(ARCH_X32, 0)
    known = {token: number for token, number in largest.items() if number > 0}
    return enosys.prefix(known, largest_x32) if known else b""
