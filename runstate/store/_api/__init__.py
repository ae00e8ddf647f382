"""The public methods of a store: they check arguments, build commands, and decode what comes back."""
