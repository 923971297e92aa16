"""A budget of bytes or latency: what layers cost in each precision, and the choice with the least loss."""
