"""Hypothesis for unit tests: as many examples as a fast run allows; time is never asserted."""

from hypothesis import settings

settings.register_profile("unit", max_examples=150, deadline=None)
settings.load_profile("unit")
