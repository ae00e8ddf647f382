"""A Hypothesis machine over a store: actors with copies that get old, a clock, and every answer foretold.

    class MyStore(StoreMachine):
        def open_store(self) -> Store:
            return open_store("sqlite:///:memory:")

    TestMyStore = MyStore.TestCase
    TestMyStore.settings = settings(max_examples=20, stateful_step_count=60)

Few long examples find more than many short ones: the steps of one differ, while many an example is like the one before.

Clients create runs and ask events of them, often from a version of the past. Workers claim, settle, release and take
over; they stand still past their leases, and come back. Somebody sweeps, the clock goes on, old runs are pruned, and
two threads ask at once. Beside the store stands an account of what it must answer (`model.py`), and after every step
each run, each history and each thread is compared with it.

What two threads break may not break again when Hypothesis repeats it, and is then called flaky. It is a failure all the
same: its message has what was asked, and what was told.
"""

from tests.testing.store_machine.machine import StoreMachine

__all__ = ["StoreMachine"]
