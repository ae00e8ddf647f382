"""An integration whose library is not installed says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("hidden", ["pydantic_ai", "pydantic_ai.durable_exec"])
def test_the_extra_of_pydantic_ai_is_named(hidden: str) -> None:
    """Without Pydantic AI, or with a release that has no interface for durability."""
    code = f"import sys; sys.modules[{hidden!r}] = None; import runstate.integrations.pydantic_ai"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    sentence = "runstate.integrations.pydantic_ai needs Pydantic AI: pip install 'pydantic-ai-slim>=2.60'"
    assert f"ImportError: {sentence}" == done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("module", "extra", "package"),
    [("opentelemetry", "otel", "opentelemetry-api>=1.28"), ("alembic", "alembic", "alembic>=1.13")],
)
def test_what_the_other_extras_install_is_named(module: str, extra: str, package: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; import runstate.integrations.{extra}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.stderr.splitlines()[-1].endswith(f": pip install '{package}'")
