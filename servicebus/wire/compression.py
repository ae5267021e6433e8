"""Compression of what is encrypted: zlib of the standard library, or zstd. What it unpacks is bounded."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

from servicebus.errors import EnvelopeError

__all__ = ["JSON", "ZLIB", "ZSTD", "compressed", "decompressed"]

JSON, ZLIB, ZSTD = "json", "zlib", "zstd"
"""The forms of a text: as it is, or compressed."""
_SHORT = 256
"""Less than this is not worth it."""


def compressed(text: bytes, form: str) -> tuple[bytes, str]:
    """*text* in *form*, or as it is if that is no longer; and which of the two.

    Raises:
        ImportError: what that needs is not installed.
    """
    packed = zlib.compress(text, 1) if form == ZLIB else _zstd().compress(text, 3)
    return (packed, form) if len(text) > _SHORT and len(packed) < len(text) else (text, JSON)


def decompressed(text: bytes, form: str, max_bytes: int) -> bytes:
    """The text that *text*, in *form*, stands for.

    Raises:
        EnvelopeError: ``oversized`` for more than *max_bytes*; ``encryption`` for a form that is none, or that is not
            known here.
    """
    try:
        if form == JSON:
            found, is_all = text, True
        elif form == ZLIB:
            unzip = zlib.decompressobj()
            found, is_all = unzip.decompress(text, max_bytes + 1), unzip.eof
        elif form == ZSTD:
            unpack = _zstd().ZstdDecompressor()
            found, is_all = unpack.decompress(text, max_bytes + 1), unpack.eof
        else:
            raise EnvelopeError("encryption", f"it has the form {form[:20]!r}, which is not known here")
    except ImportError as error:
        raise EnvelopeError("encryption", str(error)) from None
    except EnvelopeError:
        raise
    except Exception as error:  # each module has one of its own
        raise EnvelopeError("encryption", f"it is no {form}: {type(error).__name__}") from None
    if len(found) > max_bytes:
        raise EnvelopeError("oversized", f"over {max_bytes} bytes when decompressed, which are allowed")
    if not is_all:
        raise EnvelopeError("encryption", f"its {form} breaks off")
    return found


@cache
def _zstd() -> Any:
    """The module of Python 3.14, or its backport."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        try:
            from backports import zstd  # type: ignore[import-not-found,unused-ignore,no-redef]
        except ImportError as error:
            what = "zstd needs Python 3.14 or backports.zstd: pip install servicebus-failover[crypto]"
            raise ImportError(what) from error
    return zstd
