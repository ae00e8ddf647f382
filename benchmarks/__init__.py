"""Benchmarks. Each package is a command: `python -m benchmarks.durable --quick`."""
