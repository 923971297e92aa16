"""Load, run, check and time exported files, with numpy and one engine alone: this package is what goes to a board."""
