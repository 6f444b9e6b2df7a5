"""nftables by libnftables(3): a ruleset as text, applied in one transaction."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from sampan.linux.netlink import Netlink

NEWS_GROUP = 7  # NFNLGRP_NFTABLES
_NETFILTER = 12


class NftablesError(Exception):
    """libnftables is missing, or the kernel refused the ruleset."""


@functools.cache
def _library() -> Any:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise NftablesError("libnftables.so.1 is missing: apt-get install libnftables1") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def run(text: str) -> str:
    """Runs nft commands as one transaction, in the current network namespace; returns what they print.

    Raises NftablesError with libnftables' own words; then nothing has changed.
    """
    library = _library()
    context = ctypes.c_void_p(library.nft_ctx_new(ctypes.c_uint32(0)))
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        if library.nft_run_cmd_from_buffer(context, ctypes.c_char_p(text.encode())):
            raise NftablesError((library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace").strip())
        return (library.nft_ctx_get_output_buffer(context) or b"").decode(errors="replace")
    finally:
        library.nft_ctx_free(context)


def news() -> Netlink:
    """A socket that becomes readable whenever any ruleset of this network namespace changes."""
    return Netlink(_NETFILTER, 1 << (NEWS_GROUP - 1))
