"""Zstandard of the standard library from Python 3.14 on, of its backport before.

Not the `zstandard` package: it reads a truncated file without an error.
"""

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, ZstdDecompressor, ZstdFile
else:
    from backports.zstd import CompressionParameter, ZstdDecompressor, ZstdFile

__all__ = ["CompressionParameter", "ZstdDecompressor", "ZstdFile"]
