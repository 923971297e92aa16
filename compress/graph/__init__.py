"""What a network computes: its traced graph, the names of its inputs and outputs, and weights that are computed."""
