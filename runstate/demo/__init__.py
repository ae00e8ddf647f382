"""The demonstration: two workers with a few hundred durable runs."""
