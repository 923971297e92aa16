"""What everything stands on: settings and parts of stages, edits, and plain mathematics."""
