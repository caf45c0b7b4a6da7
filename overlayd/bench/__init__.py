"""What each way between containers costs: measured in a lab or against a live peer, kept as JSON, shown as HTML."""
