"""Names for containers whose user gave none: an adjective and a noun, as Docker's names-generator makes them."""

from __future__ import annotations

import random
from collections.abc import Container as Taken

_ADJECTIVES = [
    "amber",
    "bold",
    "calm",
    "deft",
    "eager",
    "fleet",
    "glad",
    "hale",
    "idle",
    "jolly",
    "keen",
    "lively",
    "merry",
    "neat",
    "open",
    "proud",
    "quiet",
    "ready",
    "sunny",
    "tidy",
    "urban",
    "vivid",
    "warm",
    "young",
]
_NOUNS = [
    "anchor",
    "beacon",
    "canoe",
    "dinghy",
    "eddy",
    "ferry",
    "galley",
    "harbor",
    "island",
    "jetty",
    "keel",
    "lagoon",
    "mast",
    "narrows",
    "oar",
    "pier",
    "quay",
    "reef",
    "sail",
    "tiller",
    "umiak",
    "vessel",
    "wharf",
    "yawl",
]


def generate(taken: Taken[str]) -> str:
    """A name that is not among those `taken`."""
    while True:
        name = f"{random.choice(_ADJECTIVES)}_{random.choice(_NOUNS)}"
        if name in taken:
            name += str(random.randrange(10000))
        if name not in taken:
            return name
