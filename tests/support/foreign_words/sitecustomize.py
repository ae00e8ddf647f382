"""Spell the messages of other libraries in ROT13, in each process that has this folder on its PYTHONPATH.

What a caller may rely on stays: names, values, places in a text, error codes and classes. A module is changed when it
is imported, so that no process imports more than it does otherwise.
"""

from __future__ import annotations

import codecs
import gettext
import re
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

OURS: Final = "runstate: "
"""How the sentences begin that this project's guards have the database say."""

# What stands in quotes or braces, and what has a digit or an underscore in it, is a name or a value.
_KEPT: Final = re.compile(r"\{[^}]*\}|%\(\w+\)\w|%\w|'[^'\n]*'|\"[^\"\n]*\"|[\w./:-]*[\d_/][\w./:-]*")


def other_words(text: str) -> str:
    """Return the message in other words, but for the names and values in it.

    >>> other_words("No such option: '--tame'. Try {command}.")
    "Ab fhpu bcgvba: '--tame'. Gel {command}."
    """
    if OURS in text:
        return text
    kept = [*_KEPT.findall(text), ""]
    return "".join(codecs.encode(words, "rot13") + name for words, name in zip(_KEPT.split(text), kept, strict=True))


def _gettext() -> None:
    """Translate what click and argparse say, headings of a help text too."""
    plain, plural = gettext.gettext, gettext.ngettext
    gettext.gettext = lambda message: other_words(plain(message))
    gettext.ngettext = lambda msgid1, msgid2, n: other_words(plural(msgid1, msgid2, n))


def _arguments(kind: Any, *which: str) -> None:
    """Have the constructor of an error take other words for the arguments that are called so."""
    from inspect import signature

    plain = kind.__init__
    asked = signature(plain)

    def construct(self: Any, *args: Any, **named: Any) -> None:
        given = asked.bind(self, *args, **named)
        for name in which:
            if isinstance(given.arguments.get(name), str):
                given.arguments[name] = other_words(given.arguments[name])
        plain(*given.args, **given.kwargs)

    kind.__init__ = construct


def _text(kind: Any) -> None:
    """Have an error written in other words."""
    plain = kind.__str__

    def written(self: Any) -> str:
        return other_words(plain(self))

    kind.__str__ = written


def _json(module: ModuleType) -> None:
    _arguments(module.JSONDecodeError, "msg")


def _yaml_error(module: ModuleType) -> None:
    _arguments(module.MarkedYAMLError, "context", "problem", "note")


def _yaml_reader(module: ModuleType) -> None:
    _arguments(module.ReaderError, "reason")


def _sqlite(module: ModuleType) -> None:
    _text(module.Error)


def _transitions(module: ModuleType) -> None:
    _text(module.MachineError)


def _psycopg(module: ModuleType) -> None:
    """Translate what a server says, and what libpq and psycopg say themselves."""
    _text(module.Error)
    primary = module.Diagnostic.message_primary.fget
    for name in ("message_primary", "message_detail", "message_hint"):
        plain = getattr(module.Diagnostic, name).fget

        def read(self: Any, plain: Callable[[Any], str | None] = plain) -> str | None:
            said, whole = plain(self), primary(self)
            return said if said is None or (whole is not None and OURS in whole) else other_words(said)

        setattr(module.Diagnostic, name, property(read))


_CHANGES: Final[dict[str, Callable[[ModuleType], None]]] = {
    "json.decoder": _json,
    "psycopg.errors": _psycopg,
    "sqlite3.dbapi2": _sqlite,
    "transitions.core": _transitions,
    "yaml.error": _yaml_error,
    "yaml.reader": _yaml_reader,
}


class _Changing(Loader):
    """Loads a module as another loader does, and changes it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _CHANGES[module.__name__](module)


class _Finder(MetaPathFinder):
    """Finds the modules to be changed where they are."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _CHANGES else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Changing(spec.loader)
        return spec


def install() -> None:
    """Change what is imported already, and see to what will be."""
    _gettext()
    for name in _CHANGES.keys() & sys.modules.keys():
        _CHANGES[name](sys.modules[name])
    sys.meta_path.insert(0, _Finder())


if __name__ == "sitecustomize":
    install()
