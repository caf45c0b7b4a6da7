"""The configuration: its model, one parser for each kind of value, and the checks across values."""
