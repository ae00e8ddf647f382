"""The command `runstate`, also as `python -m runstate`."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Final, NoReturn

_MISTAKE: Final = 2
_INTERRUPTED: Final = 130  # what shells say of a program that Ctrl-C ended


def main() -> None:
    """Run the command. Whatever goes wrong is one sentence on stderr and an exit code, never a traceback."""
    try:
        import click

        from runstate.cli import cli
    except ModuleNotFoundError as missing:
        if missing.name not in ("click", "rich"):
            raise
        _end(_MISTAKE, "the command needs click and rich: pip install 'runstate[cli]'")
    _take_any_text()
    try:
        code = cli.main(prog_name="runstate", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except click.ClickException as mistake:
        from runstate.cli._options import masked

        vars(mistake)["message"] = masked(mistake.message)  # click quotes words of the command line as they came
        mistake.show()
        sys.exit(mistake.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _end(_INTERRUPTED, "interrupted")
    except BrokenPipeError:
        _drop_the_rest()
        sys.exit(1)  # as click does: whoever read has had enough, and the answer is not whole
    except OSError as trouble:
        _drop_the_rest()
        _end(_MISTAKE, f"cannot go on: {trouble.strerror or trouble}")


def _take_any_text() -> None:
    """Have stdout spell out what its encoding lacks, as stderr does; where it was closed, take it and keep nothing."""
    out: object = sys.stdout
    if out is None:
        # Not closed before the process ends, as Python's own are not.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)
    elif isinstance(out, TextIOWrapper):
        out.reconfigure(errors="backslashreplace")


def _drop_the_rest() -> None:
    """Let what is still in the buffer go nowhere, or Python would complain about it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(code: int, said: str) -> NoReturn:
    sys.stderr.write(f"runstate: {said}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
