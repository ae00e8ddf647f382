"""The outputs of a run's tool calls, in the two forms that callers have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from runstate.run import validators
from runstate.run.errors import FieldError, InvalidRun
from runstate.run.json_values import is_object, json_path
from runstate.run.values import raise_if_invalid

__all__ = ["normalize"]


def normalize(outputs: object) -> dict[str, str]:
    """Return the outputs by call id: as they came, or from the API's list of `tool_call_id` and `output`.

    The list may stand in the API's whole body, `{"tool_outputs": [...]}`, and one output by itself.

    Raises `InvalidRun` with every fault.
    """
    if outputs.__class__ is dict:
        for output in cast("dict[str, object]", outputs).values():
            if output.__class__ is not str:
                break
        else:
            by_id = cast("dict[str, str]", outputs)
            if "tool_call_id" not in by_id:  # or it may be one output by itself
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
    raise_if_invalid(validators.first_hundred(_faults_of_outputs(outputs)))
    return cast("dict[str, str]", outputs)


def _listed(outputs: object) -> object:
    """Return the list in a body of the API, or made of one output; anything else as it came."""
    if not is_object(outputs):
        return outputs
    inner = outputs.get("tool_outputs")
    if isinstance(inner, list | tuple):
        return cast("Sequence[object]", inner)
    return [outputs] if set(outputs) == {"tool_call_id", "output"} else outputs


def _faults_of_outputs(outputs: Mapping[object, object]) -> Iterator[FieldError]:
    for call_id, output in outputs.items():
        yield from validators.string(json_path("outputs", call_id), output)
