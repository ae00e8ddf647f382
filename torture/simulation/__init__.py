"""A simulation of many processes on one database, without processes: one seed is one world, and one exact run.

What runs is the library's own: store, committer, statements, guards, worker, heartbeat, sweep. Only what it stands on
is replaced: threads, locks, loops and clocks are virtual, and a scheduler decides by the seed who goes on. The database
is SQLite's, in memory; its connections break, time out and lose answers as PostgreSQL's do.
"""
