"""Containers on this host's part of the overlay, as data: what is attached, which addresses are free, what is asked."""
