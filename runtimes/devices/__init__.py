"""One file per kind of place where a runtime runs."""
