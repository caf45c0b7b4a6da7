"""Data paths between containers compared, in a lab or against a live peer: results as JSON, reports as HTML."""
