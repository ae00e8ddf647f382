"""Client and worker processes over one store, and the checks of what they were told."""
