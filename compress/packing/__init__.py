"""Packed files: an exported file as it is downloaded, with its zeros left out; restored bit for bit. Free of torch."""

from .container import Packed, decode, encode, pack, unpack

__all__ = ["Packed", "decode", "encode", "pack", "unpack"]
