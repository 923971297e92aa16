"""What may be said on a command line: options, groups and lists, and what is refused before torch is imported."""
