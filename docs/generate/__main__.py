"""Write anew all that the documentation shows and that comes from something else: ``python -m docs.generate``."""

from __future__ import annotations

from . import architecture, picture, results

for each in (results, picture, architecture):
    each.write()
