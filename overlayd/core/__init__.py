"""Floor 1: nothing outside memory. Configuration, leases, routes, decisions, desired state; `now` is an argument."""
