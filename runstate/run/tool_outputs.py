"""The outputs of tool calls, in the two forms that callers pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from runstate.run import validators
from runstate.run.errors import FieldError, InvalidRun
from runstate.run.json_values import is_object, json_path
from runstate.run.values import raise_if_invalid

__all__ = ["normalize"]


def normalize(outputs: object) -> dict[str, str]:
    """Return the outputs by call id, from such an object or from the list of the API.

    The list of the API has objects with `tool_call_id` and `output`. Its whole body, `{"tool_outputs": [...]}`, and a
    single output are accepted too.

    Raises `InvalidRun` with all errors.
    """
    if outputs.__class__ is dict:
        for output in cast("dict[str, object]", outputs).values():
            if output.__class__ is not str:
                break
        else:
            by_id = cast("dict[str, str]", outputs)
            if "tool_call_id" not in by_id:  # otherwise it may be a single output
                return by_id
    outputs = _listed(outputs)
    if isinstance(outputs, list | tuple):
        listed = cast("Sequence[object]", outputs)
        pairs = [(item.get("tool_call_id"), item.get("output")) for item in listed if is_object(item)]
        named = {call_id: output for call_id, output in pairs if isinstance(call_id, str)}
        if len(named) < len(listed):
            raise InvalidRun([FieldError("outputs", "expected objects with tool_call_id and output, each id once")])
        outputs = named
    if not is_object(outputs):
        raise InvalidRun(validators.wrong_type("outputs", "an object {call id: output}", outputs))
    raise_if_invalid(validators.first_hundred(_output_errors(outputs)))
    return cast("dict[str, str]", outputs)


def _listed(outputs: object) -> object:
    """Return the list in a body of the API, or of a single output; any other value unchanged."""
    if not is_object(outputs):
        return outputs
    inner = outputs.get("tool_outputs")
    if isinstance(inner, list | tuple):
        return cast("Sequence[object]", inner)
    return [outputs] if set(outputs) == {"tool_call_id", "output"} else outputs


def _output_errors(outputs: Mapping[object, object]) -> Iterator[FieldError]:
    for call_id, output in outputs.items():
        yield from validators.string(json_path("outputs", call_id), output)
