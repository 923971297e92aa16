"""Files that others wrote, read within limits and before any engine sees them."""
