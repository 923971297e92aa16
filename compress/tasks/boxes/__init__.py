"""Boxes around objects: read out of what detectors return, suppressed, matched to another network's, scored."""
