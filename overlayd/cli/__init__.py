"""Floor 5: arguments, terminal, exit codes."""
