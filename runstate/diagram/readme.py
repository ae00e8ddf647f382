"""Keeps the diagrams in a README up to date with the table: `python -m runstate.diagram.readme README.md`.

A block is what stands between two comments, `<!-- runstate:table -->` and `<!-- /runstate:table -->`. It is replaced.
With `--check` nothing is written, and the exit status is 1 if a file is stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from runstate.diagram import draw

__all__ = ["main", "refresh"]

_README_WIDTH: Final = 88
"""Characters that fit on a page without a scroll bar."""

_BLOCKS: Final[Mapping[str, Callable[[], str]]] = {
    "table": lambda: draw(format="table"),
    "lanes": lambda: f"```text\n{draw(format='lanes', width=_README_WIDTH)}\n```",
    "mermaid": lambda: f"```mermaid\n{draw(format='mermaid')}\n```",
}
_OPENING: Final = re.compile(r"^<!-- runstate:(\w+) -->$", re.MULTILINE)


def refresh(text: str) -> str:
    r"""Return `text` with every block replaced by a diagram of the table; all other text stays as it is.

    Raises `ValueError` if a block has no end, or if there is no diagram of its name.

    >>> text = "The table:\n<!-- runstate:lanes -->\nold\n<!-- /runstate:lanes -->\n"
    >>> "old" in refresh(text)
    False
    """
    done: list[str] = []
    rest = 0
    while opening := _OPENING.search(text, rest):
        name = opening[1]
        if name not in _BLOCKS:
            raise ValueError(f"no picture is called {name!r}; there are {', '.join(_BLOCKS)}")
        end = text.find(f"\n<!-- /runstate:{name} -->", opening.end())
        if end < 0:
            raise ValueError(f"the block {opening[0]} has no <!-- /runstate:{name} --> after it")
        done += text[rest : opening.end()], "\n", _BLOCKS[name]()
        rest = end
    return "".join((*done, text[rest:]))


def main(arguments: Sequence[str]) -> int:
    """Refresh the named files, or with `--check` only report stale ones; return the exit status of the process."""
    check = "--check" in arguments
    names = [argument for argument in arguments if argument != "--check"]
    if not names:
        sys.stderr.write("usage: python -m runstate.diagram.readme [--check] FILE...\n")
        return 2
    stale = 0
    for path in map(Path, names):
        before = path.read_text(encoding="utf-8")
        after = refresh(before)
        if after == before:
            continue
        stale += 1
        if check:
            sys.stderr.write(f"{path} is stale; to refresh it: python -m runstate.diagram.readme {path}\n")
        else:
            path.write_text(after, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
