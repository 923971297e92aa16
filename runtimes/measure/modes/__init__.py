"""What is measured beyond the latency of warm runs: one file for each kind, for any device."""
