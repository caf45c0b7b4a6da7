"""Load generators. Each is a program of its own, started by its path: the standard library is all that it imports, so
that it is up in 20 ms."""
