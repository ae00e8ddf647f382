"""What a durable run costs, compared with a hand-written baseline and with task queues."""
