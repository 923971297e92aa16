"""Files that others wrote, read within limits; files of ours, written whole or not at all."""
