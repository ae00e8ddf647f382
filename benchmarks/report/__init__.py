"""All benchmarks and the torture: run side by side, and written down."""
