"""Runs the benchmarks and the torture programs, and renders their results as pages."""
