"""Files that follow from the settings of configurations, written by ``python -m compress.cli.generate``."""
