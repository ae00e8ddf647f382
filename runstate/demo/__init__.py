"""Demonstrations: one run through every status, and two workers with a few hundred durable runs."""
