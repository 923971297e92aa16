"""compress profile"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .grammar import options

if TYPE_CHECKING:
    from pathlib import Path

    from ..deploy import Deployed
    from ..report.schema import Profile
    from ..siblings import runtimes
    from ..sources.load import Network
    from .session import Options


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
@options.device
@options.option("--threads", common=True, type=options.THREADS, default=1, show_default=True, help="Of the engine.")
@options.option("--no-roofline", is_flag=True, help="Leave out the probe of what the device can do, two seconds.")
@options.option("--rows", type=click.IntRange(1, 10_000), default=20, show_default=True, help="That are shown.")
@options.common
def command(formats: tuple[str, ...], threads: int, no_roofline: bool, rows: int, **values: Any) -> None:
    """Time per node as the engine ran it, joined with multiply-adds and bytes of the network's layers.

    The last column is what the work takes at least on the device, of the time that it took: near 100 % nothing is to be
    gained but by less work. What could not be joined is named.

    \b
    Example:
      compress profile resnet20
      compress profile out/int8 --format onnx,openvino
      compress profile net.onnx --json
      compress profile out/int8 --on local,ssh://pi@board
    """
    import tempfile
    from pathlib import Path

    from ..deploy.profile import needs, roofline_of
    from ..pipeline import fold_for_export
    from ..siblings import runtimes
    from .on_devices import on_devices
    from .output.profile_table import profile_table
    from .session import Options, progress_bars

    call = Options(**values)
    network = call.open(call.load_data())
    folded = fold_for_export(network)
    request = runtimes.measure.request.Request(threads=threads)
    profiles: list[Profile] = []
    with tempfile.TemporaryDirectory() as folder, progress_bars(call) as progress:

        def measure(device: runtimes.devices.device.Device) -> None:
            probe = None
            for file in _files(call, folded, formats, Path(tempfile.mkdtemp(dir=folder)), device):
                if probe is None and not no_roofline:
                    probe = roofline_of(device, file.runs_in, threads)
                profiles.append(_profile(file, folded, threads, probe, device))
                call.console.print(profile_table(profiles[-1], rows))

        done = on_devices(call, progress, measure, lambda device: device.require(request, needs(profile=True)))
    if profiles or done.ended is None:
        call.tell({"devices": done.facts, "profiles": profiles})
    done.require_all()


def _files(
    call: Options, folded: Network, formats: tuple[str, ...], folder: Path, device: runtimes.devices.device.Device
) -> list[Deployed]:
    """The file that was named, or those that the network is exported to for a device."""
    from pathlib import Path

    from .. import deploy
    from ..siblings import runtimes

    words = call.specification()
    if not formats and runtimes.facts.is_model_file(Path(words)):
        return [deploy.Deployed(words, Path(words))]
    files = []
    for number, form in enumerate(formats or (None,)):
        wanted = deploy.Wanted(form).on(device) if call.on else deploy.Wanted(form)
        path = folder / f"{number}{deploy.suffix_of(wanted)}"
        title = f"{words} ({form})" if len(formats) > 1 else words
        files.append(deploy.export(folded, title, path, wanted)[1])
    return files


def _profile(
    file: Deployed,
    folded: Network,
    threads: int,
    probe: runtimes.measure.modes.roofline.Roofline | None,
    device: runtimes.devices.device.Device,
) -> Profile:
    from ..deploy.profile import RUNS, executed_graph, profile_file
    from ..errors import InvalidInput
    from ..siblings import runtimes

    graph = executed_graph(file, folded.example_inputs, threads, device, RUNS, by_layer=True)
    profile = profile_file(file, graph, folded, probe, threads, device)
    if profile is None:
        title = runtimes.facts.title_of(file.runs_in)
        raise InvalidInput(f"profile {file.name}: {title} tells no time of single nodes; choose another --format")
    return profile
