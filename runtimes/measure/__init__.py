"""How a file runs here: its latency, and the memory that it takes."""
