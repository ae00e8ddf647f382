"""A text that cannot be read gets a sentence of ours, whatever the reader of JSON or YAML below says of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstate.errors import RunDecodeError
from runstate.run import codec
from runstate.run.syntax_problem import is_deeper, syntax_problem
from runstate.traces import _yaml as yaml_values

DEEP = f"nested deeper than {codec.MAX_DEPTH} levels"


def told(text: str) -> str:
    with pytest.raises(RunDecodeError) as refused:
        codec.parse(text)
    (fault,) = refused.value.errors
    return fault.message


@pytest.mark.parametrize(
    ("text", "index", "expected"),
    [
        ("", 0, "the text ends too early"),
        ("[1", 2, "the text ends too early"),
        ("[1 2]", 3, "unexpected '2'"),
        ("\x1b", 0, r"unexpected '\x1b'"),
        ("\ud800", 0, r"unexpected '\ud800'"),
        ('["a', 1, "a string does not end"),
        ('["a\\"', 1, "a string does not end"),
        ('["a\\', 1, "a string does not end"),
        ('["a" "b"]', 5, "unexpected '\"'"),
        ('["a" "\\""]', 5, "unexpected '\"'"),
    ],
)
def test_the_reason_is_what_the_reader_met(text: str, index: int, expected: str) -> None:
    """It is the end, a string that has none, or a character, spelled so that a terminal can show it."""
    assert expected == syntax_problem(text, index)


@pytest.mark.parametrize("opening", ["[", '{"a":', "[[1],", '["[[[\\"", ', '{"]]": '])
def test_the_bound_of_depth_comes_before_what_else_is_wrong(opening: str) -> None:
    """80 levels that are not closed are broken JSON, 81 are too deep, and so is what fills the stack of a reader."""
    levels = codec.MAX_DEPTH - opening.startswith("[[")  # of which one level has another in it
    assert told(opening * levels) != DEEP
    for more in (levels + 1, 500, 5_000, 100_000):
        for end in ("", "x", '"', "\n"):
            assert DEEP == told(opening * more + end)


def test_what_was_closed_before_counts_too() -> None:
    """A text that was too deep once is so, wherever it breaks afterwards."""
    fits, not_fits = ("[" * levels + "]" * levels for levels in (codec.MAX_DEPTH - 1, codec.MAX_DEPTH))
    assert told(f"[{fits}, {fits}, x]").startswith("not JSON at line 1 column ")
    assert DEEP == told(f"[{fits}, {not_fits}, x]")


JSON = st.recursive(st.none() | st.text('[]{}"\\a'), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(0, 10))
def test_the_depth_of_a_text_is_that_of_its_value(value: object, levels: int) -> None:
    """Brackets in strings open nothing."""
    assert (depth_of(value) > levels) is is_deeper(json.dumps(value), levels)


@pytest.mark.parametrize("reader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize("opening", ["[", "[\n", "{a: ", "- ", "? ", "a: [", "- [", "'[[[': ["])
def test_yaml_is_too_deep_before_its_reader_says_so(opening: str, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader may look a thousand brackets ahead, and have a bound of its own."""
    yaml = pytest.importorskip("yaml")
    if not hasattr(yaml, reader):
        pytest.skip("this PyYAML was built without libyaml")
    monkeypatch.setattr(yaml, "CSafeLoader", getattr(yaml, reader), raising=False)
    block = opening in ("a: [", "- [", "'[[[': [")
    for times in (100, 999, 5_000):
        text = opening + "[" * times if block else opening * times
        with pytest.raises(RunDecodeError) as refused:
            yaml_values.parse(text.encode())
        assert [DEEP] == [fault.message for fault in refused.value.errors]


@pytest.mark.parametrize("reader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: b: c", "not YAML at line 1 column 5: unexpected ':'"),
        ("caf\xe9: b\nd: 'e' f", "not YAML at line 2 column 8: unexpected 'f'"),
        ("a: b\nd: \x01", "not YAML at line 2 column 4: a character it does not allow"),
        ("\x01", "not YAML at line 1 column 1: a character it does not allow"),
    ],
)
def test_yaml_that_is_none_is_told_with_its_place(
    text: str, expected: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both readers of PyYAML are told of in the same sentence."""
    yaml = pytest.importorskip("yaml")
    if not hasattr(yaml, reader):
        pytest.skip("this PyYAML was built without libyaml")
    monkeypatch.setattr(yaml, "CSafeLoader", getattr(yaml, reader), raising=False)
    with pytest.raises(RunDecodeError) as refused:
        yaml_values.parse(text.encode())
    assert [expected] == [fault.message for fault in refused.value.errors]
