"""What a run costs in memory, compared with a hand-written baseline and with other libraries."""
