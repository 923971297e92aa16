"""A whole run from Python: a recipe, the same as ``compress run`` reads from YAML, and its report.

python examples/recipe.py
"""

from __future__ import annotations

from pathlib import Path

from compress import Recipe, run

NETWORK = f"{Path(__file__).with_name('net.py')}:build"

recipe = Recipe.model_validate(
    {
        "model": NETWORK,
        "data": {"source": "digits"},
        "train": {"epochs": 2, "batch_size": 32},
        "teacher": "baseline",
        "stages": [
            {"prune": {"macs": 3, "training": {"epochs": 4, "batch_size": 32}}},
            {"fold": {}},
            {"quantize": {"ranges": {"calibration": "mse"}}},
        ],
        "exports": [{"name": "baseline", "after": "baseline"}, {"name": "int8", "after": "quantize"}],
        "benchmark": {"threads": 1, "preset": "quick"},
        "gates": {"size_ratio": 3, "float_nodes": 0},
    }
)
report = run(recipe, "out/examples/run", overwrite=True)

for stage in report.stages:
    print(f"{stage.name}: {stage.after.macs:,} multiply-adds, validation top-1 {stage.after.score}")
print(
    f"{report.summary.size_ratio:.1f}x smaller, {report.summary.speedup:.1f}x faster; see out/examples/run/report.html"
)
