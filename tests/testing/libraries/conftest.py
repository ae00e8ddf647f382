"""These modules import what may not be there, and what is slow: only the tests that need one import it."""

from __future__ import annotations

collect_ignore_glob = ["*.py"]  # or every run would look for doctests in them
