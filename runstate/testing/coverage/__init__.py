"""Transition coverage: which of the 81 cells a test suite covers, moves and refusals apart, in total and by test.

It counts the events that the code under test sends to a `Run` or a store in this process, and those that the assertions
of the kit send to other classes. The moves by which `a_run` sets up a run do not count.
"""

from runstate.testing.coverage._collector import Collector
from runstate.testing.coverage._data import CoverageData, Tally

__all__ = ["Collector", "CoverageData", "Tally"]
