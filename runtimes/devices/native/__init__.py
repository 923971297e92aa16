"""Devices without Python: programs of the engines' own that the user provides, and a small runner of ours."""
