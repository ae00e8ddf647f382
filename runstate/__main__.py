"""The command `runstate`, also as `python -m runstate`."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Final, NoReturn

_INVALID: Final = 2
_INTERRUPTED: Final = 130  # the exit code of shells after Ctrl-C


def main() -> None:
    """Run the command. An error is one line on stderr and an exit code, never a traceback."""
    try:
        import click

        from runstate.cli import cli
    except ModuleNotFoundError as missing:
        if missing.name not in ("click", "rich"):
            raise
        _end(_INVALID, "the command needs click and rich: pip install 'click>=8.1.2' 'rich>=13.7'")
    _accept_any_text()
    try:
        code = cli.main(prog_name="runstate", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except click.ClickException as error:
        from runstate.cli.errors import redact

        vars(error)["message"] = redact(error.message)  # click quotes the command line as it is
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _end(_INTERRUPTED, "interrupted")
    except BrokenPipeError:
        _discard_output()
        sys.exit(1)  # as click does: the reader closed the pipe, and the output is not complete
    except OSError as error:
        _discard_output()
        _end(_INVALID, f"cannot go on: {error.strerror or error}")


def _accept_any_text() -> None:
    """Let stdout escape characters that its encoding lacks, as stderr does. If it is closed, discard all output."""
    out: object = sys.stdout
    if out is None:
        # It stays open until the process ends, like Python's own.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)
    elif isinstance(out, TextIOWrapper):
        out.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Discard what is still in the buffer. Python would report an error for it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(code: int, message: str) -> NoReturn:
    sys.stderr.write(f"runstate: {message}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
