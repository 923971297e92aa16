"""Figures as SVG, for any page or file; what they say is the caller's."""
