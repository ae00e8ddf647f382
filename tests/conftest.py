"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from runstate import ManualClock, use_clock
from tests.support import NOW

# No timing decides a test, and a failure must come back on the next run.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=100,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
settings.load_profile("steady")


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    """The clock that everything reads, standing still until the test moves it."""
    with use_clock(ManualClock(float(NOW))) as manual:
        yield manual
