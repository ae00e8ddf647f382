"""The text of every statement, and the decoding of rows. Nothing here imports a driver."""
