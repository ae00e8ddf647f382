"""Odd input by the million: `python -m torture.fuzz --target run|check|cassette|url|cli --inputs N --seed S`.

Each input is made of a valid one by a few mutations, of its structure first and then of its bytes, by a random number
generator that target, seed and number begin: any input comes again by its number alone (`--number`). An answer is a run
or the documented refusal. Everything else is a crash: another exception, a warning, a control character that is sent
on as it came, a password that is told, an exit code that nobody documented, time past a generous linear bound.

`--growth` measures the worst shapes at doubling sizes; what it prints decides nothing.
"""
