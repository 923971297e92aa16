"""compress profile"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .grammar import options

if TYPE_CHECKING:
    from ..deploy import Deployed
    from ..report.schema import Profile
    from ..siblings import runtimes


@options.command("profile", short_help="Show where the time of a file goes, layer by layer.")
@options.network
@options.listed(
    "--format",
    "formats",
    common=True,
    type=click.Choice(options.FORMATS),
    help="What a network that is no file yet is exported to, as onnx,openvino; ONNX if left out.",
)
@options.data
@options.option("--threads", common=True, type=options.THREADS, default=1, show_default=True, help="Of the engine.")
@options.option("--no-roofline", is_flag=True, help="Leave out the probe of what this machine can do, two seconds.")
@options.option("--rows", type=click.IntRange(1, 10_000), default=20, show_default=True, help="That are shown.")
@options.common
def command(formats: tuple[str, ...], threads: int, no_roofline: bool, rows: int, **values: Any) -> None:
    """Time per node as the engine ran it, joined with multiply-adds and bytes of the network's layers.

    The last column is what the work takes at least on this machine, of the time that it took: near 100 % nothing is to
    be gained but by less work. What could not be joined is named.

    \b
    Example:
      compress profile resnet20
      compress profile out/int8 --format onnx,openvino
      compress profile net.onnx --json
    """
    import tempfile
    from pathlib import Path

    from ..siblings import runtimes
    from .output.profile_table import profile_table
    from .session import Options

    call = Options(**values)
    network = call.open(call.load_data())
    probe = None if no_roofline else runtimes.measure.roofline.roofline(threads)
    profiles = []
    with tempfile.TemporaryDirectory() as folder:
        for file in _files(call, network, formats, Path(folder)):
            profile = _profile(file, network, threads, probe)
            profiles.append(profile)
            call.console.print(profile_table(profile, rows))
    call.tell({"profiles": profiles})


def _files(call: Any, network: Any, formats: tuple[str, ...], folder: Any) -> list[Deployed]:
    """The file that was named, or those that the network is exported to."""
    from pathlib import Path

    from .. import deploy
    from ..pipeline import fold_for_export
    from ..siblings import runtimes

    words = call.specification()
    if not formats and Path(words).suffix.lower() in runtimes.facts.suffixes():
        return [deploy.Deployed(words, Path(words))]
    folded = fold_for_export(network)
    files = []
    for number, wanted in enumerate([deploy.Wanted(each) for each in formats] or [deploy.Wanted()]):
        path = folder / f"{number}{deploy.suffix_of(wanted)}"
        title = f"{words} ({wanted.format})" if len(formats) > 1 else words
        files.append(deploy.export(folded, title, path, wanted)[1])
    return files


def _profile(file: Deployed, network: Any, threads: int, probe: runtimes.measure.roofline.Roofline | None) -> Profile:
    from ..deploy.profile import RUNS, executed_graph, profile_file
    from ..errors import InvalidInput
    from ..pipeline import fold_for_export
    from ..siblings import runtimes

    here = runtimes.devices.local.LocalDevice()
    graph = executed_graph(file, network.example_inputs, threads, here, RUNS, by_layer=True)
    profile = profile_file(file, graph, fold_for_export(network), probe, threads)
    if profile is None:
        title = runtimes.facts.title_of(file.engine or runtimes.facts.engine_of(file.path))
        raise InvalidInput(f"profile {file.name}: {title} tells no time of single nodes; choose another --format")
    return profile
