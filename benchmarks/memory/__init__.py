"""What a run costs in memory, beside a hand-written floor and other libraries."""
