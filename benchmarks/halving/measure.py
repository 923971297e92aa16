"""One network, halved in a process of its own, with limits on time and memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from benchmarks.common.frame import ROOT

SECONDS, MEGABYTES, RATIO, AT_MOST = 60.0, 4096.0, 0.5, 0.6
TIMM_INPUT = 256

Record = dict[str, Any]


# One network in one process.


def one(zoo: str, name: str, pruner: str, seconds: float, told: Connection) -> None:
    """Halve one network and send what came of it: a record after each phase, the last one counts."""
    import timm.layers
    import torch

    from benchmarks.peers.networks import macs, network, parameters
    from benchmarks.peers.torch_pruning import torch_pruning

    torch.set_num_threads(1)
    timm.layers.set_fused_attn(pruner == "ours")  # Torch-Pruning's examples take it apart
    model, inputs = network(zoo, name)
    record: Record = {"zoo": zoo, "name": name, "pruner": pruner, "params": parameters(model)}
    with torch.no_grad():
        shapes = _shapes(model(*inputs))
    record["macs"] = macs(model, inputs)
    told.send(record | {"phase": "built"})
    result = None
    start = time.process_time()
    signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)  # again, where code swallows it
    try:
        if pruner == "ours":
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
        from benchmarks.halving.masking import masking_error

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
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.peers.loaded"])
    return context


def examine(context: ForkServerContext, zoo: str, name: str, pruner: str, seconds: float = SECONDS) -> Record:
    """What came of halving one network, in a process of its own."""
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=one, args=(zoo, name, pruner, seconds, tell))
    record: Record = {"zoo": zoo, "name": name, "pruner": pruner, "phase": "failed", "error": "could not be built"}
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

    from benchmarks.peers.networks import parameters

    configuration = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if configuration is not None and max(configuration.input_size[1:]) > TIMM_INPUT:
        return None
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except Exception:  # noqa: BLE001 - its constructor computes with values
        model = timm.create_model(name)
    return parameters(model) if max(model.default_cfg["input_size"][1:]) <= TIMM_INPUT else None
