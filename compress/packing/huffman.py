"""Huffman codes for bytes: shorter codes for frequent symbols (Huffman, 1952; Han et al., "Deep Compression", 2016, 4).

No code is longer than 15 bits: the shortest codes of limited length are those of the package-merge algorithm (Larmore
and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", 1990). They are canonical, so that their
lengths say it all. Symbols stand in blocks that begin at whole bytes and are decoded side by side, all blocks at once.

    1 byte    b: a block has 2**b symbols, the last one what is left
    2 bytes   the first and the last symbol that has a code
    lengths   of the codes from the first to the last, 4 bits each, the low bits first; 0 is no code
    sizes     of the blocks in bytes, 2 bytes each, little-endian
    blocks    codes, high bits first, filled up with zeros
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 15
"""Bits of a code at most."""

_SYMBOLS = 256
_TABLE = 1 << LONGEST
_SMALLEST_BLOCK, _LARGEST_BLOCK = 10, 12  # powers of two; the bytes of the largest fit into 2 bytes
_BLOCKS_AT_ONCE = 2048
_NO_CODE = 255  # as length: it leads out of any block


def code_lengths(counts: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """The bits of the code of each symbol, (n,): the shortest in sum that none of ``counts`` needs more than 15 for.

    A symbol that does not occur has 0; one that is alone has 1.

    >>> code_lengths(np.array([5, 0, 1, 2]))
    array([1, 0, 2, 2], dtype=uint8)
    """
    lengths = np.zeros(len(counts), np.uint8)
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    if len(order) < 2:
        lengths[order] = 1
        return lengths
    single = counts[order].astype(np.int64), np.eye(len(order), dtype=np.uint8)
    weights, members = single
    for _ in range(LONGEST - 1):
        end = len(weights) // 2 * 2
        weights = np.concatenate([single[0], weights[0:end:2] + weights[1:end:2]])
        members = np.concatenate([single[1], members[0:end:2] + members[1:end:2]])
        ascending = np.argsort(weights, kind="stable")
        weights, members = weights[ascending], members[ascending]
    lengths[order] = members[: 2 * len(order) - 2].sum(axis=0)
    return lengths


def least_bytes(data: bytes) -> int:
    """The bytes that `encode` makes of ``data``, but for bits that fill up blocks."""
    if not data:
        return 0
    counts = _counts(np.frombuffer(data, np.uint8))
    lengths = code_lengths(counts)
    first, last = np.flatnonzero(lengths)[[0, -1]]
    blocks = -(-len(data) >> _block_bits(len(data)))
    return 3 + int(last - first) // 2 + 1 + 2 * blocks - (-int(counts @ lengths) // 8)


def encode(data: bytes) -> bytes:
    """The bytes in Huffman codes made for them; ``data`` is not empty."""
    symbols = np.frombuffer(data, np.uint8)
    lengths = code_lengths(_counts(symbols))
    bits = _block_bits(len(symbols))
    first, last = np.flatnonzero(lengths)[[0, -1]]
    stored_lengths = lengths[first : last + 1]
    halves = np.append(stored_lengths, np.zeros(len(stored_lengths) % 2, np.uint8)).reshape(-1, 2)
    codes = _codes(lengths)
    at_once = _BLOCKS_AT_ONCE << bits
    parts = [
        _encoded(symbols[start : start + at_once], codes, lengths, 1 << bits)
        for start in range(0, len(symbols), at_once)
    ]
    sizes = np.concatenate([size for size, _ in parts]).astype("<u2")
    head = bytes((bits, first, last)) + (halves[:, 0] | halves[:, 1] << 4).astype(np.uint8).tobytes()
    return b"".join((head, sizes.tobytes(), *(block for _, block in parts)))


def decode(stored: bytes, count: int) -> bytes:
    """The ``count`` bytes that `encode` was given.

    Raises:
        ValueError: ``stored`` is not their code.
    """
    bits, lengths, rest = _head(stored)
    blocks = -(-count // (1 << bits))
    if len(rest) < 2 * blocks:
        raise ValueError(f"{count} symbols in a Huffman code of {len(stored)} bytes")
    sizes = np.frombuffer(rest, "<u2", blocks).astype(np.int64)
    content = np.frombuffer(rest, np.uint8, offset=2 * blocks)
    ends = np.cumsum(sizes)
    if len(content) != (ends[-1] if blocks else 0):
        raise ValueError("the blocks of a Huffman code are not as long as it says")
    table = _table(lengths)
    parts = []
    for first in range(0, blocks, _BLOCKS_AT_ONCE):
        last = min(first + _BLOCKS_AT_ONCE, blocks)
        symbols = min(count, last << bits) - (first << bits)
        part = content[ends[first] - sizes[first] : ends[last - 1]]
        parts.append(_decoded(part, sizes[first:last], table, symbols, 1 << bits))
    return b"".join(parts)


def _block_bits(count: int) -> int:
    return int(np.clip(np.ceil(np.log2(count / 32)), _SMALLEST_BLOCK, _LARGEST_BLOCK))


def _counts(symbols: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.bincount(symbols, minlength=_SYMBOLS)


def _codes(lengths: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The canonical code of each symbol, in the high of 15 bits: shorter ones first, then by symbol."""
    spans = np.where(lengths > 0, _TABLE >> lengths.astype(np.int64), 0)
    order = np.argsort(lengths, kind="stable")
    codes = np.zeros(len(lengths), np.int64)
    codes[order] = np.cumsum(spans[order]) - spans[order]
    return codes


def _encoded(
    symbols: NDArray[np.uint8], codes: NDArray[np.int64], lengths: NDArray[np.uint8], block: int
) -> tuple[NDArray[np.int64], bytes]:
    """The bytes of each block of ``symbols``, and the blocks."""
    bits = lengths[symbols].astype(np.int64)
    ends = np.cumsum(bits)
    begins = (ends - bits)[::block]
    sizes = -(-np.diff(begins, append=ends[-1]) // 8)
    moved = 8 * (np.cumsum(sizes) - sizes) - begins
    place = ends - bits + np.repeat(moved, block)[: len(symbols)]
    placed = np.zeros(8 * int(sizes.sum()), np.uint8)
    code = codes[symbols]
    for bit in range(int(lengths.max())):
        placed[place[(code >> (LONGEST - 1 - bit)) & 1 == 1] + bit] = 1
    return sizes, np.packbits(placed).tobytes()


def _head(stored: bytes) -> tuple[int, NDArray[np.uint8], bytes]:
    """The bits of a block's number of symbols, the lengths of all codes, and what follows."""
    if len(stored) < 3 or stored[0] > _LARGEST_BLOCK or stored[1] > stored[2]:
        raise ValueError("a Huffman code with a wrong head")
    bits, first, last = stored[:3]
    end = 3 + (last - first) // 2 + 1
    if len(stored) < end:
        raise ValueError("a Huffman code that ends within its lengths")
    halves = np.frombuffer(stored[3:end], np.uint8)
    lengths = np.zeros(_SYMBOLS, np.uint8)
    lengths[first : last + 1] = np.stack([halves & 15, halves >> 4], axis=1).ravel()[: last + 1 - first]
    return bits, lengths, stored[end:]


def _table(lengths: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For any 15 bits, the length of the code that they begin with, times 256, plus its symbol."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    used = lengths[order].astype(np.int64)
    table = np.repeat(used << 8 | order, _TABLE >> used)
    if len(table) != _TABLE and not (len(order) == 1 and used[0] == 1):
        raise ValueError("the lengths of a Huffman code do not fit together")
    return np.append(table, np.full(_TABLE - len(table), _NO_CODE << 8))


def _decoded(
    content: NDArray[np.uint8], sizes: NDArray[np.int64], table: NDArray[np.int64], count: int, block: int
) -> bytes:
    """``count`` symbols from blocks of ``sizes`` bytes: the n-th of every block in step n."""
    padded = np.append(content, np.zeros(3, np.uint8)).astype(np.int64)
    words = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    ends = 8 * np.cumsum(sizes)
    position = ends - 8 * sizes
    left = count - (len(sizes) - 1) * block
    symbols = np.empty((block, len(sizes)), np.uint8)
    for step in range(block if len(sizes) > 1 else left):
        here = position if step < left else position[:-1]
        window = np.take(words, here >> 3, mode="clip") >> (24 - LONGEST - (here & 7))
        entry = table[window & (_TABLE - 1)]
        symbols[step, : len(here)] = entry
        here += entry >> 8
    if not np.array_equal(-(-position // 8), ends // 8):
        raise ValueError("a block of a Huffman code does not end where the next begins")
    return symbols.T.tobytes()[:count]
