"""The surgery: what pruning is to reach, what goes by it, the sizes that follow, and the cut itself."""
