"""Floor 0: bytes only. Headers, checksums and messages; no kernel, no clock, no state."""
