"""Everything at once: callers and workers in processes of their own, over one store, and harm drawn from a seed."""
