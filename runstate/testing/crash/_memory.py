"""The memory of a process that a handler uses: global variables and the like, which a new process does not have."""

from __future__ import annotations

import dis
import inspect
from collections import deque
from collections.abc import Collection, Iterator, MutableMapping, MutableSet
from functools import partial
from types import CellType, CodeType
from typing import Any, Final, TypeAlias, cast

import attrs

__all__ = ["MemorySnapshot", "ProcessMemory"]

_CONTAINERS: Final = (list, dict, set, deque, bytearray)
_VALUES: Final = (int, float, str, bytes, bool, tuple, frozenset, type(None))
_UNSET: Final = object()

MemorySnapshot: TypeAlias = dict[str, Any]
"""A copy of each variable, by its name."""


@attrs.frozen
class _Variable:
    """A variable that a handler uses itself, outside of the functions of its steps."""

    name: str
    place: dict[str, Any] | CellType
    """Where it is assigned."""
    key: str
    is_assigned: bool
    """Whether the handler assigns it."""

    @property
    def value(self) -> Any:
        if isinstance(self.place, CellType):
            try:
                return self.place.cell_contents
            except ValueError:
                return _UNSET
        return self.place.get(self.key, _UNSET)

    def assign(self, value: Any) -> None:
        if isinstance(self.place, CellType):
            self.place.cell_contents = value
        else:
            self.place[self.key] = value


class ProcessMemory:
    """The variables of a handler's process that the code of the handler itself uses.

    These are global variables, variables of the function around the handler, and attributes of the handler's object, if
    they are lists, dictionaries or sets, or if the handler assigns them. What only the functions of its steps use is
    taken for the outside world. So is what `outside` names.
    """

    def __init__(self, handler: object, outside: Collection[object]) -> None:
        ignored = {id(value) for value in outside}
        found = {variable.name: variable for variable in _variables_of(handler)}
        self._variables: Final = {
            name: variable for name, variable in found.items() if id(variable.value) not in ignored
        }

    def snapshot(self) -> MemorySnapshot:
        """Return a copy of all variables."""
        copies: MemorySnapshot = {}
        for name, variable in self._variables.items():
            value = variable.value
            if isinstance(value, _CONTAINERS):
                copies[name] = (value, _copy(value))
            elif variable.is_assigned and isinstance(value, _VALUES):
                copies[name] = (_UNSET, value)
        return copies

    def changed(self, since: MemorySnapshot) -> tuple[str, ...]:
        """Return the names of the variables that have another value than before."""
        return tuple(name for name, (kept, copy) in since.items() if not self._is_unchanged(name, kept, copy))

    def restore(self, snapshot: MemorySnapshot) -> None:
        """Give all variables the values of a snapshot. Containers stay the same objects."""
        for name, (kept, copy) in snapshot.items():
            if self._is_unchanged(name, kept, copy):
                continue
            variable = self._variables[name]
            if kept is _UNSET:
                variable.assign(copy)
                continue
            _fill(kept, copy)
            if variable.value is not kept:
                variable.assign(kept)

    def _is_unchanged(self, name: str, kept: Any, copy: Any) -> bool:
        value = self._variables[name].value
        if kept is not _UNSET and value is not kept:
            return False
        try:
            return bool(value == copy)
        except Exception:  # an object whose `__eq__` raises
            return True


def _copy(value: Any) -> Any:
    """Return a copy of a container, with copies of the containers inside."""
    kind = cast("Any", type(value))
    if kind is dict:
        return {key: _copy(item) for key, item in value.items()}
    if kind in (list, deque):
        return cast("Any", kind)(map(_copy, value))
    return value.copy() if issubclass(kind, _CONTAINERS) else value


def _fill(container: Any, copy: Any) -> None:
    container.clear()
    if isinstance(container, MutableMapping | MutableSet):
        cast("Any", container).update(_copy(copy))
    else:
        container.extend(_copy(copy))


def _variables_of(handler: object) -> Iterator[_Variable]:
    function: Any = handler
    while isinstance(function, partial):
        function = function.func
    owner = getattr(function, "__self__", None)
    if not inspect.ismethod(function) and not inspect.isfunction(function):
        owner, function = function, inspect.getattr_static(cast("Any", type(function)), "__call__", None)
    function = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=False))
    loaded, assigned = _names_in(code)
    for name in loaded | assigned:
        if name in cells:
            yield _Variable(name, cells[name], name, name in assigned)
        elif name in function.__globals__:
            yield _Variable(name, function.__globals__, name, name in assigned)
    attributes: dict[str, Any] = getattr(owner, "__dict__", {}) if not isinstance(owner, type) else {}
    for name in set(code.co_names) & attributes.keys():
        yield _Variable(f"self.{name}", attributes, name, is_assigned=True)


def _names_in(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the outer variables that a function reads, and those that it assigns."""
    loaded, assigned = set[str](), set[str]()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
            loaded.add(instruction.argval)
        elif instruction.opname in ("STORE_GLOBAL", "STORE_DEREF"):
            assigned.add(instruction.argval)
    return loaded, assigned
