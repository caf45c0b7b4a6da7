"""Floor 4: probes, health, status, metrics and the watchdog."""
