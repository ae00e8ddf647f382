"""What becomes slow first as a store grows: the figures of `docs/scale.md`."""
