"""Layer 1: whom to probe, when, and what answers and silence say of a peer."""
