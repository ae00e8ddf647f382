"""Trials of one fault each: kills, restarts, cuts, lost answers, full disks, races, stops, clocks (`python -m`)."""
