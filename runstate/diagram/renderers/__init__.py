"""One module for each format that a diagram is drawn in."""
