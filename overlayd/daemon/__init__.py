"""Floor 5: start-up, supervision and reload of one overlayd process."""
