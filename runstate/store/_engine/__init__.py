"""The path of commands to the database: transports, the committer and the executor."""
