"""Huffman codes: against the textbook's algorithm, a decoder that reads bit by bit, and the entropy."""

from __future__ import annotations

import functools
import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compress.packing import huffman


def textbook(counts: list[int]) -> tuple[int, int]:
    """The bits of all codes and of the longest code, by merging the two rarest nodes again and again."""
    heap = [(count, 0) for count in counts if count]
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        (a, depth), (b, other) = heapq.heappop(heap), heapq.heappop(heap)
        bits += a + b
        heapq.heappush(heap, (a + b, max(depth, other) + 1))
    return bits, heap[0][1]


def shortest(counts: list[int], longest: int) -> int:
    """The least bits of codes that have ``longest`` bits at most, by trying every tree level by level."""
    descending = sorted(counts, reverse=True)

    @functools.cache
    def rest(placed: int, nodes: int, level: int) -> float:
        if placed == len(descending):
            return 0
        if level == longest:
            return 0 if nodes >= len(descending) - placed else np.inf
        best = min(
            rest(placed + leaves, min(2 * (nodes - leaves), len(descending)), level + 1)
            + (sum(descending[placed + leaves :]) if placed + leaves < len(descending) else 0)
            for leaves in range(min(nodes, len(descending) - placed) + 1)
        )
        return float(best)

    return int(rest(0, 1, 0))


def read_bit_by_bit(stored: bytes, count: int) -> bytes:
    """The symbols of a stream as its layout is written down."""
    bits, first, last = stored[:3]
    end = 3 + (last - first + 2) // 2
    lengths = {first + i: stored[3 + i // 2] >> 4 * (i % 2) & 15 for i in range(last - first + 1)}
    codes: dict[str, int] = {}
    code = length = 0
    for n, symbol in sorted((n, symbol) for symbol, n in lengths.items() if n):
        code <<= n - length
        length = n
        codes[format(code, f"0{n}b")] = symbol
        code += 1
    blocks = -(-count >> bits)
    sizes = [int.from_bytes(stored[end + 2 * i : end + 2 * i + 2], "little") for i in range(blocks)]
    position, symbols = end + 2 * blocks, bytearray()
    for size in sizes:
        told = "".join(format(byte, "08b") for byte in stored[position : position + size])
        wanted = min(count, len(symbols) + (1 << bits))
        start, stop = 0, 1
        while len(symbols) < wanted:
            if told[start:stop] in codes:
                symbols.append(codes[told[start:stop]])
                start = stop
            stop += 1
        position += size
    assert position == len(stored)
    return bytes(symbols)


def skewed(count: int, seed: int = 0) -> bytes:
    return np.minimum(np.random.default_rng(seed).geometric(0.1, count), 255).astype(np.uint8).tobytes()


@given(st.one_of(st.binary(min_size=1, max_size=300), st.builds(skewed, st.integers(1, 5000), st.integers(0, 9))))
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost(data: bytes) -> None:
    assert huffman.decode(huffman.encode(data), len(data)) == data


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 2048, 3 * 1024 + 7])
def test_the_layout_is_the_one_written_down(count: int) -> None:
    assert read_bit_by_bit(huffman.encode(skewed(count)), count) == skewed(count)


def test_blocks_are_taken_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = huffman.encode(skewed(10_000))
    monkeypatch.setattr(huffman, "_BLOCKS_AT_ONCE", 3)
    assert huffman.encode(skewed(10_000)) == whole and huffman.decode(whole, 10_000) == skewed(10_000)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=256).filter(any))
@settings(max_examples=100, deadline=None)
def test_codes_are_as_short_as_the_textbooks(counts: list[int]) -> None:
    lengths = huffman.code_lengths(np.array(counts))
    bits, longest = textbook(counts)
    assert [n > 0 for n in lengths] == [count > 0 for count in counts]
    if longest <= huffman.LONGEST and len([c for c in counts if c]) > 1:
        assert int(lengths @ np.array(counts)) == bits


@pytest.mark.parametrize("symbols", [17, 22, 30])
def test_codes_of_limited_length_are_the_shortest_ones(symbols: int) -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < symbols:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert textbook(fibonacci)[1] > huffman.LONGEST
    lengths = huffman.code_lengths(np.array(fibonacci)).astype(int)
    assert lengths.max() == huffman.LONGEST and sum(2.0**-lengths) == 1
    assert int(lengths @ np.array(fibonacci)) == shortest(fibonacci, huffman.LONGEST)


def entropy_bytes(symbols: NDArray[np.integer]) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float(counts @ np.log2(len(symbols) / counts)) / 8


@pytest.mark.parametrize("symbols", [31, 256])
def test_streams_are_within_two_percent_of_the_entropy(symbols: int) -> None:
    draws = np.random.default_rng(0).normal(symbols / 2, symbols / 6, 100_000)
    data = np.clip(draws, 0, symbols - 1).astype(np.uint8)
    encoded = huffman.encode(data.tobytes())
    assert entropy_bytes(data) < huffman.least_bytes(data.tobytes()) <= len(encoded) < 1.02 * entropy_bytes(data)
    assert len(encoded) - huffman.least_bytes(data.tobytes()) <= 100_000 // 1024


def test_wrong_streams_are_refused() -> None:
    data = skewed(3000)
    good = huffman.encode(data)
    head = 3 + (good[2] - good[1] + 2) // 2
    wrong = [b"", good[:2], good[:5], good[: head + 3], good[:-1], good + b"\0", b"\x0d" + good[1:]]
    wrong += [bytes((10, 9, 3)) + good[3:], good[:3] + bytes(head - 3) + good[head:]]  # symbols backwards; no code
    wrong += [good[:3] + b"\x11" * (head - 3) + good[head:]]  # more codes of one bit than there are
    wrong += [good[:head] + bytes((good[head] - 1,)) + good[head + 1 :]]  # a block that is too short
    for each in wrong:
        with pytest.raises(ValueError):
            huffman.decode(each, len(data))
    for count in (0, 1, 2999 - 1024, 5000, 2**31 - 1):
        with pytest.raises(ValueError):
            huffman.decode(good, count)


def test_a_code_that_is_not_there_is_refused() -> None:
    alone = huffman.encode(b"a" * 9)
    assert huffman.decode(alone, 9) == b"a" * 9
    for byte in (0x80, 0x08):
        with pytest.raises(ValueError, match="does not end"):
            huffman.decode(alone[:-2] + bytes((byte, 0)), 9)


def test_changed_streams_are_refused_or_as_long() -> None:
    rng = np.random.default_rng(0)
    good = huffman.encode(skewed(3000))
    for _ in range(300):
        changed = bytearray(good)
        for place in rng.integers(0, min(len(good), int(rng.choice([8, 40, 10**6]))), rng.integers(1, 4)):
            changed[place] ^= 1 << int(rng.integers(8))
        try:
            assert len(huffman.decode(bytes(changed), 3000)) == 3000
        except ValueError as error:
            assert "Huffman" in str(error)
