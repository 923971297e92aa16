"""Two measurements held against each other: how much the time changed, how sure that is, and what else changed."""
