"""The command `runstate`, also as `python -m runstate`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; say what to install where its libraries are missing (exit code 2)."""
    try:
        from runstate.cli import cli
    except ModuleNotFoundError as missing:
        if missing.name not in ("click", "rich"):
            raise
        sys.exit(_needs_extra())
    cli(prog_name="runstate")


def _needs_extra() -> int:
    sys.stderr.write("runstate: the command needs click and rich: pip install 'runstate[cli]'\n")
    return 2


if __name__ == "__main__":
    main()
