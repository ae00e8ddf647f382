"""The settings of a new run: their defaults, and their checks.

`copied` is the fast path for settings of the usual types. `checked` decides about all others, and composes the errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast

from runstate.run.arguments import truncation_strategy_of
from runstate.run.errors import FieldError
from runstate.run.json_values import copy_json, deep_copy, is_object
from runstate.run.record import FIELDS
from runstate.run.validators import INT64_MAX, MAX_METADATA_KEY, MAX_METADATA_PAIRS, MAX_METADATA_VALUE
from runstate.run.values import TruncationStrategy

__all__ = ["AUTO", "DEFAULTS", "DEFAULT_CHOICES", "NO_PAIRS", "Settings", "are_valid", "checked", "copied"]

Settings: TypeAlias = tuple[Any, ...]

_OWN: Final = ("instructions", "tools", "metadata", "max_prompt_tokens", "max_completion_tokens")
_CHOICES: Final = (
    *("truncation_strategy", "tool_choice", "parallel_tool_calls", "response_format", "temperature", "top_p"),
)
_CHECKS: Final = tuple((name, FIELDS[name]) for name in (*_OWN, *_CHOICES))
_TOOLS: Final = _OWN.index("tools")
AUTO: Final = TruncationStrategy()
NO_PAIRS: Final[Mapping[str, str]] = {}
DEFAULTS: Final[Settings] = (None, (), NO_PAIRS, None, None)
"""Of the settings in `_OWN`, which are different for each application."""
DEFAULT_CHOICES: Final[Settings] = (AUTO, "auto", True, "auto", 1.0, 1.0)
"""Of the settings in `_CHOICES`, which few applications change."""
_NUMBERS: Final = (float, int)


def copied(settings: Settings) -> Settings | None:
    """Return copies of the settings in `_OWN` that are certainly valid. After None, `checked` decides.

    The fast path uses neither `cast` nor small helpers, because each would be a call.
    """
    instructions, tools, metadata, max_prompt_tokens, max_completion_tokens = settings
    if (
        (instructions is None or instructions.__class__ is str)
        and (max_prompt_tokens is None or (max_prompt_tokens.__class__ is int and 1 <= max_prompt_tokens <= INT64_MAX))
        and (
            max_completion_tokens is None
            or (max_completion_tokens.__class__ is int and 1 <= max_completion_tokens <= INT64_MAX)
        )
    ):
        own_tools = _copied_tools(tools)
        pairs = _copied_metadata(metadata)
        if own_tools is not None and pairs is not None:
            return instructions, own_tools, pairs, max_prompt_tokens, max_completion_tokens
    return None


def are_valid(choices: Settings) -> bool:
    """Return whether the settings in `_CHOICES` are certainly valid, and none is None."""
    strategy, tool_choice, parallel, response_format, temperature, top_p = choices
    return (
        strategy.__class__ is TruncationStrategy
        and (tool_choice.__class__ is str and tool_choice in ("auto", "none", "required"))
        and (parallel is True or parallel is False)
        and (response_format.__class__ is str and response_format == "auto")
        and (temperature.__class__ in _NUMBERS and 0 <= temperature <= 2)
        and (top_p.__class__ in _NUMBERS and 0 <= top_p <= 1)
    )


def _copied_tools(tools: Any) -> tuple[object, ...] | None:
    if tools.__class__ is not tuple and tools.__class__ is not list:
        return None
    own: list[object] = []
    for tool in tools:
        copy: Any = copy_json(tool)
        if copy.__class__ is not dict or copy.get("type").__class__ is not str:
            return None
        own.append(copy)
    return tuple(own)


def _copied_metadata(metadata: Any) -> Mapping[str, str] | None:
    if metadata.__class__ is not dict:
        return None
    pairs: dict[Any, Any] = metadata.copy()
    if len(pairs) > MAX_METADATA_PAIRS:
        return None
    for key, value in pairs.items():
        if key.__class__ is not str or value.__class__ is not str:
            return None
        if len(key) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            return None
    return pairs


def checked(own: Settings, choices: Settings, errors: list[FieldError]) -> tuple[Settings, Settings]:
    """Return copies of all settings, the default for None. Adds their errors to `errors`."""
    settings = [*DEFAULTS, *DEFAULT_CHOICES]
    for index, value in enumerate((*own, *choices)):
        if value is not None and value is not settings[index]:
            setting, check = _CHECKS[index]
            if setting == "truncation_strategy" and is_object(value):
                value = truncation_strategy_of(cast("Mapping[str, object]", value))
            found = check(setting, value)
            errors += found
            settings[index] = None if found else deep_copy(value)  # a copy, because the caller may change its value
    settings[_TOOLS] = tuple(settings[_TOOLS] or ())
    return tuple(settings[: len(_OWN)]), tuple(settings[len(_OWN) :])
