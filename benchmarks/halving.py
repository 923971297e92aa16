"""How many networks of torchvision (or families of timm) can be halved: ours beside Torch-Pruning, with random weights.

python benchmarks/halving.py --peers DIR [--zoo timm] [--only 'resnet*'] [--engine ours] [-o out/halving.json]

A network is halved where, with half the channels asked for, it still runs on the example input with outputs of the
same shape, and has at most 0.6 times its parameters or its multiply-adds (both are printed). Each runs in a process of
its own, on one thread, with 60 seconds of the processor and 4 GB for the pruning. Of ours it is also checked that the
smaller network computes what the original does with the removed channels at zero, in float64 to 1e-8.

The peers come from a folder: pip install --no-deps --target DIR torchvision==0.28.0 timm==1.0.31 torch-pruning==1.6.1
pillow huggingface-hub
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import click

SECONDS, MEGABYTES, RATIO, AT_MOST = 60.0, 4096.0, 0.5, 0.6
TORCHVISION_COUNT, TIMM_INPUT = 70, 256

Record = dict[str, Any]


# One network in one process.


def one(zoo: str, name: str, engine: str, seconds: float, told: Connection) -> None:
    """Halve one network and send what came of it: a record after each phase, the last one counts."""
    import timm.layers
    import torch
    from peers import macs, network, parameters, torch_pruning

    torch.set_num_threads(1)
    timm.layers.set_fused_attn(engine == "ours")  # Torch-Pruning's examples take it apart
    model, inputs = network(zoo, name)
    record: Record = {"zoo": zoo, "name": name, "engine": engine, "params": parameters(model)}
    with torch.no_grad():
        shapes = _shapes(model(*inputs))
    record["macs"] = macs(model, inputs)
    told.send(record | {"phase": "built"})
    result = None
    start = time.process_time()
    signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)  # again, where code swallows it
    try:
        if engine == "ours":
            result = _ours(model, inputs)
            pruned = result.model
        else:
            pruned = torch_pruning(model, inputs, ratio=RATIO)  # in place
        record["seconds"] = time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
        record["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        with torch.no_grad():
            after = _shapes(pruned(*inputs))
        if after != shapes:
            raise RuntimeError(f"outputs of shape {after} instead of {shapes}")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        signal.setitimer(signal.ITIMER_PROF, 0)
        record.setdefault("seconds", time.process_time() - start)
        record.setdefault("peak_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        told.send(record | {"phase": "failed", "error": _line(error), "at": _place(error)})
        return
    record |= {"phase": "done", "params_after": parameters(pruned), "macs_after": macs(pruned, inputs)}
    if result is not None:
        record["skipped"] = dict(Counter(skip.reason for skip in result.skipped).most_common(8))
        told.send(record | {"masking_failed": "not compared"})
        from masking import masking_error

        try:
            record["masking_error"] = masking_error(model, result, inputs)
        except Exception as error:  # noqa: BLE001
            record["masking_failed"] = f"{_line(error)} at {_place(error)}"
    told.send(record)


def _too_long(*_: object) -> None:
    raise TimeoutError("pruning took longer than the limit")


def _shapes(outputs: Any) -> list[list[int]]:
    from torch.utils._pytree import tree_leaves

    return [list(leaf.shape) for leaf in tree_leaves(outputs) if hasattr(leaf, "shape")]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"


def _ours(model: Any, inputs: Any) -> Any:
    from compress.prune import Prune
    from compress.stage import Context

    return Prune(ratio=RATIO, round_to=1).apply(model, Context(inputs))


# All networks, one process each.


def judged(record: Record, seconds: float = SECONDS) -> Record:
    """The record with the ratios, and ``halved``: whether it counts, by the definition above."""
    if record["phase"] == "failed":
        return record | {"halved": False}
    ratios = {key: record[f"{key}_after"] / record[key] for key in ("params", "macs")}
    within = record["seconds"] <= seconds and record["peak_mb"] <= MEGABYTES
    if not within:
        record["error"] = f"{record['seconds']:.0f} s and {record['peak_mb']:.0f} MB: over the limits"
    elif min(ratios.values()) > AT_MOST:
        record["error"] = "little is cut"
    return record | {f"{key}_ratio": value for key, value in ratios.items()} | {
        "halved": within and min(ratios.values()) <= AT_MOST
    }  # fmt: skip


def processes(peers: str) -> ForkServerContext:
    """Where processes come from: forked off one that has imported everything."""
    os.environ["EDGEPRESS_PEERS"] = str(Path(peers).resolve())
    here = Path(__file__).resolve().parent
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peers_loaded"])
    return context


def examine(context: ForkServerContext, zoo: str, name: str, engine: str, seconds: float = SECONDS) -> Record:
    """What came of halving one network, in a process of its own."""
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=one, args=(zoo, name, engine, seconds, tell))
    record: Record = {"zoo": zoo, "name": name, "engine": engine, "phase": "failed", "error": "could not be built"}
    process.start()
    tell.close()
    ends = time.monotonic() + 6 * seconds + 600  # the limit is on pruning; all else and busy cores come on top
    try:
        while told.poll(max(0.0, ends - time.monotonic())):
            record = told.recv()
        process.kill()
    except EOFError:
        pass
    process.join()
    if record["phase"] == "built":
        record |= {"phase": "failed", "error": f"its process ended with exit code {process.exitcode}"}
    return judged(record, seconds)


def timm_families(cache: Path) -> list[str]:
    """The smallest network of each file of timm whose input is at most 256 x 256; minutes, so it is kept in a file."""
    if cache.exists():
        return list(json.loads(cache.read_text()))
    import timm
    from timm.models import _registry

    listed, smallest = set(timm.list_models()), []
    for names in _registry._module_to_models.values():
        sizes = [(_timm_parameters(name), name) for name in sorted(listed.intersection(names))]
        fitting = [(size, name) for size, name in sizes if size is not None]
        if fitting:
            smallest.append(min(fitting)[1])
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(sorted(smallest)))
    return sorted(smallest)


def _timm_parameters(name: str) -> int | None:
    """The parameters of a network, None where its input is larger than 256 x 256."""
    import timm
    import torch
    from peers import parameters

    configuration = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if configuration is not None and max(configuration.input_size[1:]) > TIMM_INPUT:
        return None
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except Exception:  # noqa: BLE001 - its constructor computes with values
        model = timm.create_model(name)
    return parameters(model) if max(model.default_cfg["input_size"][1:]) <= TIMM_INPUT else None


def _row(record: Record) -> str:
    def share(key: str) -> str:
        return f"{record[key]:.3f}" if key in record else "-"

    error = record.get("masking_error")
    exact = "-" if error is None else f"{error:.0e}"
    if "masking_failed" in record:
        exact = "failed"
    note = record.get("error") or record.get("masking_failed") or ""
    if not note or note == "little is cut":
        note = "; ".join([note, *(f"{n}x {reason}" for reason, n in list(record.get("skipped", {}).items())[:2])])
    return (
        f"{record['name']:<34} {record['engine']:<13} {'halved' if record['halved'] else 'NO':<7}"
        f"{share('params_ratio'):>7} {share('macs_ratio'):>7} {record.get('seconds', 0):>7.1f} "
        f"{record.get('peak_mb', 0):>6.0f} {exact:>7}  {note[:150].lstrip('; ')}"
    )


@click.command()
@click.option("--zoo", type=click.Choice(["torchvision", "timm"]), default="torchvision", show_default=True)
@click.option("--only", multiple=True, help="Pattern of names, as 'resnet*'; may be repeated.")
@click.option("--engine", type=click.Choice(["ours", "torch-pruning", "both"]), default="both", show_default=True)
@click.option("--peers", help="Folder with torchvision, timm and torch_pruning.")
@click.option("--jobs", default=1, show_default=True, help="Networks at a time.")
@click.option("--seconds", default=SECONDS, show_default=True, help="Of the processor, for pruning one network.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="out/halving.json", show_default=True)
def main(
    zoo: str,
    only: tuple[str, ...],
    engine: str,
    peers: str | None,
    jobs: int,
    seconds: float,
    output: Path,
) -> None:
    """Print a row per network and engine, then the sums; write all records as JSON."""
    from peers import make_importable, torchvision_names

    context = processes(make_importable(peers))
    everything = torchvision_names() if zoo == "torchvision" else timm_families(output.parent / "timm_families.json")
    names = everything[:TORCHVISION_COUNT] if zoo == "torchvision" else everything
    if only:
        names = [n for n in everything if any(fnmatch(n, pattern) for pattern in only)]
    elif left_out := [n for n in everything if n not in names]:
        print(f"{len(names)} networks; left out as the largest: {', '.join(left_out)}")
    engines = ["torch-pruning", "ours"] if engine == "both" else [engine]
    print(f"{'network':<34} {'engine':<13} {'':<7}{'params':>7} {'MACs':>7} {'s':>7} {'MB':>6} {'masked':>7}")
    records: list[Record] = []
    output.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        pairs = [(n, e) for n in names for e in engines]
        for record in pool.map(lambda pair: examine(context, zoo, *pair, seconds), pairs):
            records.append(record)
            print(_row(record), flush=True)
            output.write_text(json.dumps(records, indent=1))
    sums = {e: sum(r["halved"] for r in records if r["engine"] == e) for e in engines}
    if "ours" in sums:
        exact = [r["masking_error"] for r in records if "masking_error" in r]
        print(f"masking property to 1e-8: {sum(e <= 1e-8 for e in exact)} of {len(exact)} that were compared")
    titles = {"ours": "ours", "torch-pruning": "Torch-Pruning"}
    print("halved: " + ", ".join(f"{titles[e]} {sums[e]} of {len(names)}" for e in sorted(engines)))


if __name__ == "__main__":
    main()
