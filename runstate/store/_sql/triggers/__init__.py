"""The triggers that hold the table of transitions inside the database, generated from its rows."""
