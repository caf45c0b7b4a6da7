"""Kernel objects as data: what is desired, what is there, and the operations that lead from one to the other."""
