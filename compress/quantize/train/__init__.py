"""Training with rounded values: scales that are learnt along, and weights of few levels."""
