"""The packet engine in C and what is rare around it, in Python."""
