"""Short runs of the programs in `torture`, and each input that was once answered wrong."""
