"""Share: all weights of a layer, or of each of its channels, take their values from a small codebook.

Han et al., "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman Coding"
(2016), section 3: k-means finds the codebook, training moves its values, and what is stored are codes. Between
``sparsify`` and ``export --pack`` it is the second of the paper's three steps; weights that are zero stay zero.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .core.settings import exclude, setting
from .errors import InvalidInput
from .integers.encoding import Encoding
from .quantize.train.few_levels import Parts, choose_layers, encode, fold, round_weights, settle
from .rounding.weights import Centroids
from .stage import Config, Context, Edit, Result, Skip, evaluation_copy
from .training.loop import Training, gentle

Init = Literal["linear", "density", "random"]
ITERATIONS = 50
"""Rounds of k-means at most; few are needed in one dimension."""


class Share(Config):
    """Weights from codebooks of ``2^bits`` values; zero is one of them where a layer has zeros."""

    bits: int = setting(
        5, "Of a code: a codebook has 2^bits values. The paper has 8 in convolutions.", common=True, ge=1, le=8
    )
    linear_bits: int | None = setting(
        None, "Of a code in linear layers, where they differ. The paper has 5.", common=True, ge=1, le=8
    )
    scope: Literal["layer", "channel"] = setting(
        "layer", "A codebook for each layer, or for each of its output channels.", common=True
    )
    init: Init = setting(
        "linear",
        "Where k-means starts: at values evenly between the least and the largest, at values with evenly many weights "
        "between them (density), or at random weights. The paper finds linear best, since large weights matter most.",
    )
    exclude: tuple[str, ...] = exclude()
    training: Annotated[Training | None, gentle(optimizer="adamw", learning_rate=1e-3, weight_decay=0.0)] = setting(
        None,
        "Of the values in the codebooks and of everything that is not shared, distilling from a teacher if any.",
    )

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The network with batch norms folded, weights that take few values, and encodings that tell them.

        Raises:
            InvalidInput: no layer can be shared, a pattern matches none, or there is no data to train on.
        """
        if self.training is not None and context.data is None:
            raise InvalidInput("share: training is set, and there is no data to train on; give data or leave it out")
        network = evaluation_copy(model)
        layers, skipped = choose_layers(network, context, self.exclude, ends=True, inputs=False)
        layers, small = self._worthwhile(network, layers)
        generator = np.random.default_rng(context.seed)
        for name in layers:
            linear = isinstance(network.get_submodule(name), nn.Linear)
            bits = self.linear_bits if linear and self.linear_bits is not None else self.bits
            round_weights(network, [name], partial(self._rounding, bits=bits, generator=generator))
        parts = Parts(network, self.training, context)
        parts.train(1.0, "train shared weights")
        values = settle(network, layers)
        folded, more, left = fold(network, context)
        encodings: dict[str, Encoding] = {name: encode(folded, name, *found) for name, found in values.items()}
        edits = [Edit(name, "weight", "float32", encodings[f"{name}.weight"].stored, "precision") for name in layers]
        return Result(folded, (*edits, *more), (*skipped, *small, *left), encodings, tuple(parts.history))

    def _worthwhile(self, network: nn.Module, layers: list[str]) -> tuple[list[str], list[Skip]]:
        """The layers whose codebook is smaller than what it saves, and those that are left alone."""
        worthwhile, skipped = [], []
        for name in layers:
            weight = network.get_parameter(f"{name}.weight")
            rows = len(weight) if self.scope == "channel" else 1
            if weight.numel() > 2 * rows * 2**self.bits:
                worthwhile.append(name)
            else:
                skipped.append(Skip(name, f"kept in float: {weight.numel()} weights save less than codebooks take"))
        if not worthwhile:
            raise InvalidInput("share: every layer is smaller than its codebook; give fewer bits, or the scope layer")
        return worthwhile, skipped

    def _rounding(self, weight: Tensor, bits: int, generator: np.random.Generator) -> Centroids:
        values = weight.numpy()
        rows = values.reshape(len(values), -1) if self.scope == "channel" else values.reshape(1, -1)
        books, codes, frozen = zip(*(cluster(row, 2**bits, self.init, generator) for row in rows), strict=True)
        return Centroids(
            torch.from_numpy(np.concatenate(codes).reshape(values.shape)),
            torch.from_numpy(np.stack(books)),
            torch.from_numpy(np.stack(frozen)),
        )


def cluster(
    values: NDArray[np.float32], count: int, init: Init, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """A codebook (count,), the code of each value, and which entries must not change: the zero that zeros have.

    Lloyd's algorithm in one dimension, from one of the paper's starts (section 3.2). Zeros are not averaged with other
    values: where there are any, one entry is theirs.
    """
    zero = values == 0
    rest = np.sort(values[~zero].astype(np.float64))
    room = count - int(bool(zero.any()))
    distinct = np.unique(rest)
    centers = distinct if len(distinct) <= room else _lloyd(rest, _starts(rest, room, init, generator))
    book = np.zeros(count, np.float32)
    first = count - room
    book[first : first + len(centers)] = centers
    book[first + len(centers) :] = centers[-1] if len(centers) else 0
    codes = np.zeros(values.shape, np.int64)
    if len(centers):
        codes[~zero] = first + _nearest(centers, values[~zero])
    frozen = np.zeros(count, np.bool_)
    frozen[:first] = True
    return book, codes, frozen


def _starts(values: NDArray[np.float64], count: int, init: Init, generator: np.random.Generator) -> NDArray[np.float64]:
    if init == "linear":
        return np.linspace(values[0], values[-1], count)
    if init == "density":
        return np.quantile(values, (np.arange(count) + 0.5) / count)
    return np.sort(generator.choice(np.unique(values), count, replace=False))


def _lloyd(values: NDArray[np.float64], centers: NDArray[np.float64]) -> NDArray[np.float64]:
    """``centers``, sorted, moved to the means of the sorted ``values`` that are nearest to them, until they rest."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    for _ in range(ITERATIONS):
        edges = np.searchsorted(values, (centers[1:] + centers[:-1]) / 2)
        ends = np.concatenate([[0], edges, [len(values)]])
        counts = np.diff(ends)
        means = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), centers)
        if np.array_equal(means, centers):
            break
        centers = means
    return centers


def _nearest(centers: NDArray[np.float64], values: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.searchsorted((centers[1:] + centers[:-1]) / 2, values)
