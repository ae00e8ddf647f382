"""The commands, one module for each group. They are loaded when they are first called."""
