"""What a durable run costs, beside a hand-written floor and other libraries."""
