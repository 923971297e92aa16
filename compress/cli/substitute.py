"""compress substitute"""

from __future__ import annotations

from typing import Any

from .grammar import options


@options.command("substitute", short_help="Replace layers by compact ones, taught by what they computed.")
@options.network
@options.settings("substitute")
@options.data
@options.teacher
@options.output
@options.common
def command(**values: Any) -> None:
    """Put compact layers in the place of costly ones: depthwise separable convolutions, Fire and Ghost modules, ...

    Each is set by least squares on what the layer read and yielded and fitted to it; --epochs then trains the whole
    network towards what it gave before.

    \b
    Example:
      compress substitute out/base --with depthwise_separable --layers 'layer3*' --data digits -o out/compact
      compress substitute out/base --with stacked_3x3 --saves macs --data digits --epochs 10 -o out/compact
    """
    from ..substitute.stage import Substitute
    from .session import run_stage

    run_stage(Substitute, "substitute", values)
