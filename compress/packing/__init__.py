"""Packed files: an exported file to download, without what repeats; restored bit for bit. Free of torch."""

from .container import Packed, PackedTensor, decode, encode, pack, unpack

__all__ = ["Packed", "PackedTensor", "decode", "encode", "pack", "unpack"]
