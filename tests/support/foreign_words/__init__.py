"""A release of every dependency that says the same in other words: no test may notice.

    PYTHONPATH=tests/support/foreign_words python -m pytest -q -n auto

runs the tests under it, in all processes they start. `sitecustomize`, which Python imports when it starts, does the
work.
"""
