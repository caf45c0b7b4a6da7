"""Netlink messages, encoded and decoded."""
