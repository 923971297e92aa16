"""Files in the formats of engines: one file or folder for each format, found by its name."""
