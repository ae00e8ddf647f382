"""PostgreSQL: the only package that imports `psycopg`."""
