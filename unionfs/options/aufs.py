# SPDX-License-Identifier: Apache-2.0
"""The option string of a union in AUFS' words, read into values.

Owns the shape of the string: words, branch lists, escapes and order; the words themselves are in `option_table`.
It decides nothing about branches on disk and touches no file.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from unionfs.branches.branch import Branch
from unionfs.errors import UsageError
from unionfs.options.table import (
    ANCIENT,
    FLAG_WORDS,
    IGNORED,
    IGNORED_VALUES,
    MOUNT_VALUES,
    MOUNT_WORDS,
    OPPOSITE,
    SWITCHES,
    VALUES,
    Change,
)
from unionfs.options.table import Options as Options

log = logging.getLogger(__name__)

_INDEX = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Surgery:
    """One change of the branch list: `action` is add, append, prepend, del or mod.

    `branch` carries the directory; `permission` is the text after `=` of a mod; `index` belongs to add.
    """

    action: str
    branch: Branch
    index: int | None = None
    permission: str = ""


@dataclass(frozen=True, slots=True)
class MountRequest:
    """Everything an option string says; `changes` are the steps from one `Options` to the next."""

    branches: tuple[Branch, ...]
    surgery: tuple[Surgery, ...]
    options: Options
    mount_flags: frozenset[str]
    fsname: str
    changes: tuple[Change, ...] = ()
    flag_words: tuple[str, ...] = ()

    def applied_to(self, options: Options) -> Options:
        """Return `options` with the changes that this request asks for, left to right."""
        for change in self.changes:
            options = change(options)
        return options


_SURGERY = {"add": "add", "ins": "add", "append": "append", "prepend": "prepend", "del": "del", "mod": "mod"}
_BRANCH_LISTS = frozenset(("br", "dirs"))


def split(text: str, separator: str) -> Iterator[str]:
    """Yield the parts of `text` between unescaped separators; a backslash keeps the character after it."""
    start = position = 0
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        if text[position] == separator:
            yield text[start:position]
            start = position + 1
        position += 1
    yield text[start:]


def split_words(text: str) -> Iterator[str]:
    """Yield the words of an option string, at commas that are neither escaped nor, as mount(8) has it, in NAME="VALUE".

    Quotes stay in the words, so that they can be joined again; a quote that is not closed before a comma or the end is a
    character like others.
    """
    start = position = 0
    while position < len(text):
        if text.startswith('="', position) and "=" not in text[start:position]:
            position = _end_of_quoted(text, position + 1)
        elif text[position] == "\\":
            position += 2
        elif text[position] == ",":
            yield text[start:position]
            start = position = position + 1
        else:
            position += 1
    yield text[start:]


def _end_of_quoted(text: str, opening: int) -> int:
    """Return where a quoted value ends; just behind the quote if that opens none."""
    position = opening + 1
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == '"' and text[position + 1 : position + 2] in ("", ","):
            return position + 1
        position += 1
    return opening + 1


def unquote(value: str) -> str:
    """Return a value without the quotes that `split_words` has minded."""
    quoted = len(value) > 1 and value[0] == '"' and _end_of_quoted(value, 0) == len(value)
    return value[1:-1] if quoted else value


def unescape(text: str) -> str:
    r"""Return a path with `\,`, `\:` and `\\` read as the character itself; other backslashes stay."""
    out = []
    position = 0
    while position < len(text):
        if text[position] == "\\" and text[position + 1 : position + 2] in (",", ":", "\\"):
            position += 1
        out.append(text[position])
        position += 1
    return "".join(out)


def escape(path: str) -> str:
    """Return `path` in the form that `unescape` reads back."""
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _branch(text: str, option: str) -> Branch:
    branch = Branch.parse(unescape(text))
    if not branch.path:
        raise UsageError(f"option {option}: {text!r} names no directory")
    return branch


def _surgery(action: str, value: str) -> Surgery:
    if action == "add":
        index, separator, rest = value.partition(":")
        if not separator or not _INDEX.fullmatch(index):
            raise UsageError(f"option add: {value!r} is not INDEX:DIR[=PERM]")
        return Surgery(action, _branch(rest, action), index=int(index))
    if action == "mod":
        path, separator, permission = unescape(value).rpartition("=")
        if not path or not separator:
            raise UsageError(f"option mod: {value!r} lacks the permission", "write mod:DIR=PERM")
        return Surgery(action, Branch(path), permission=permission)
    if action == "del":
        if not value:
            raise UsageError("option del names no directory")
        return Surgery(action, Branch(unescape(value)))
    return Surgery(action, _branch(value, action))


class _Reader:
    """Collect what the words of one option string say."""

    def __init__(self) -> None:
        self.branches: list[Branch] = []
        self.surgery: list[Surgery] = []
        self.changes: list[Change] = []
        self.words: list[str] = []
        self.fsname = ""

    def read(self, word: str) -> None:
        """Take one word in; UserError names it when nobody knows it."""
        if word in SWITCHES or word in FLAG_WORDS:
            self._read_flag(word)
        elif word in IGNORED or word in MOUNT_WORDS or word.lower().startswith("x-"):
            return
        else:
            self._read_value(word)

    def _read_flag(self, word: str) -> None:
        if word in SWITCHES:
            self.changes.append(SWITCHES[word])
        if word in FLAG_WORDS:
            self.words.append(word)

    def _read_value(self, word: str) -> None:
        cut = min((place for place in map(word.find, "=:") if place > 0), default=len(word))
        name, value = word[:cut], word[cut + 1 :]
        if word[cut : cut + 1] == "=":
            value = unquote(value)
        if name in ANCIENT:
            log.warning("option %s has no effect any more", name)
        elif not self._knows(name):
            raise UsageError(f"unknown option {word!r}")
        elif cut == len(word):
            raise UsageError(f"option {name} needs a value", f"write {name}=VALUE")
        else:
            self._take(name, value)

    @staticmethod
    def _knows(name: str) -> bool:
        tables = (VALUES, IGNORED_VALUES, _SURGERY, _BRANCH_LISTS, MOUNT_VALUES, ("fsname",))
        return any(name in table for table in tables)

    def _take(self, name: str, value: str) -> None:
        if name in _BRANCH_LISTS:
            self.branches += [_branch(part, name) for part in split(value, ":")]
        elif name in _SURGERY:
            self.surgery.append(_surgery(_SURGERY[name], value))
        elif name in VALUES:
            self.changes.append(VALUES[name](value))
        elif name in IGNORED_VALUES:
            IGNORED_VALUES[name](value, name)
        elif name == "fsname":
            self.fsname = unescape(value)

    def flags(self) -> frozenset[str]:
        flags: set[str] = set()
        for word in self.words:
            flags.discard(OPPOSITE.get(word, ""))
            flags.add(word)
        return frozenset(flags)


def parse(text: str, *, read_only: bool = False, remount: bool = False) -> MountRequest:
    r"""Read a `-o` string such as `br:A=rw:B=ro+wh,udba=none,ro`.

    `,` and `:` inside a path are written `\,` and `\:`. With `remount` a branch list is refused: AUFS
    changes a living list by add, append, prepend, del and mod. Raises UserError that names the word at fault.
    """
    reader = _Reader()
    if read_only:
        reader.read("ro")
    for word in split_words(text):
        if word:
            reader.read(word)
    if remount and reader.branches:
        raise UsageError("option br cannot be given at remount", "use add, append, prepend, del and mod")
    request = MountRequest(
        branches=tuple(reader.branches),
        surgery=tuple(reader.surgery),
        options=Options(),
        mount_flags=reader.flags(),
        fsname=reader.fsname,
        changes=tuple(reader.changes),
        flag_words=tuple(reader.words),
    )
    return replace(request, options=request.applied_to(Options()))


def initial_branches(request: MountRequest) -> tuple[Branch, ...]:
    """Return the branch list of a first mount: `br:` and then the surgery, in AUFS' order.

    An `append` is ro by default wherever it lands. Raises UserError when no branch is left, for del and mod,
    and for an index out of range (AUFS: EDOM).
    """
    branches = list(request.branches)
    for step in request.surgery:
        if step.action in ("del", "mod"):
            raise UsageError(f"option {step.action} is for remount only")
        place = {"append": len(branches), "prepend": 0}.get(step.action, step.index or 0)
        if not 0 <= place <= len(branches):
            raise UsageError(f"option add: index {place} is out of range, there are {len(branches)} branches")
        branches.insert(place, _defaulted(step, place))
    if not branches:
        raise UsageError("no branch given", "write -o br:DIR=rw:DIR=ro")
    return tuple(branches)


def _defaulted(step: Surgery, place: int) -> Branch:
    # The opening code gives rw to index 0; an append is ro even there.
    if step.action == "append" and place == 0 and step.branch.permission is None:
        return replace(step.branch, permission="ro")
    return step.branch
