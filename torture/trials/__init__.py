"""Trials of one fault each, beside the storm: lost answers, full disks, races, stops, clocks, a soak (`python -m`)."""
