"""Filters of images: lists, prune, and those that have an image among their ancestors."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping

from sampan import matching
from sampan.engine.filters import rules
from sampan.engine.filters.reading import Filters, invalid
from sampan.engine.filters.rules import Rule, Test
from sampan.images.errors import ImageError
from sampan.images.image import Image
from sampan.images.index import Index
from sampan.oci import reference
from sampan.oci.reference import BadReference

Find = Callable[[str], Image]  # an image by its name, for whoever asks


def labels_of(image: Image) -> Mapping[str, str]:
    """An image's labels."""
    return image.config.execution.labels


def created(image: Image) -> int:
    """When it was made, in nanoseconds since the epoch; when it came here if it does not say."""
    text = image.config.created
    try:
        return int(datetime.datetime.fromisoformat(text[:19] + "+00:00").timestamp()) * 10**9
    except (ValueError, TypeError):
        return int(image.loaded * 1e9)


def _edge(find: Find, after: bool) -> Rule[Image]:
    def rule(key: str, values: list[str]) -> Test[Image]:
        moments = [created(find(value)) for value in values]
        return (lambda image: created(image) > max(moments)) if after else (lambda image: created(image) < min(moments))

    return rule


def matching_names(names: list[str], patterns: list[str]) -> list[str]:
    """Those of an image's names that a pattern matches, with the tag or digest or without. Raises BadRequest."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(matching.path(pattern))
        except matching.BadPattern:
            raise invalid("reference", pattern) from None
    refs = [(name, reference.parse(name)) for name in names]
    return [
        name for name, ref in refs if any(p.matches(ref.familiar) or p.matches(ref.familiar_name) for p in compiled)
    ]


def _references(digests: Callable[[Image], list[str]]) -> Rule[Image]:
    def rule(key: str, values: list[str]) -> Test[Image]:
        matching_names([], values)  # an error now, whether there are images or not
        return lambda image: bool(matching_names([*image.tags, *digests(image)], values))

    return rule


def _common(find: Find) -> dict[str, Rule[Image]]:
    return {
        "before": _edge(find, after=False),
        "since": _edge(find, after=True),
        "until": rules.until(created),
        **rules.labels(labels_of),
    }


def listed(digests: Callable[[Image], list[str]], find: Find, wanted: Filters) -> Test[Image]:
    """The test of a list's filters, by the tags of an image and its `digests`. Raises BadRequest; ImageNotFound for an image that `before` or `since` names."""
    table: dict[str, Rule[Image]] = {
        "dangling": rules.boolean(lambda image: not image.tags),
        "reference": _references(digests),
        **_common(find),
    }
    return rules.compile(table, wanted)


def pruned(find: Find, wanted: Filters) -> Test[Image]:
    """The test of a prune's filters; without a tag only unless `dangling` is false. Raises BadRequest."""
    everything = bool(wanted.get("dangling")) and not rules.boolean_of("dangling", wanted["dangling"])
    table: dict[str, Rule[Image]] = {"dangling": rules.ignored, **_common(find)}
    test = rules.compile(table, wanted)
    return lambda image: (everything or not image.tags) and test(image)


def descendants(index: Index, names: list[str]) -> set[str]:
    """The ids of the images of these names and of all that were made from them."""
    found: set[str] = set()
    for name in names:
        try:
            ancestor = index.find(name)
        except (ImageError, BadReference):
            continue
        found.update(image.id for image in index.all() if image.id == ancestor.id or _made_from(image, ancestor))
    return found


def _made_from(image: Image, ancestor: Image) -> bool:
    """Whether it has the ancestor's layers, and more of them or at least more steps: `FROM` keeps both."""
    old, new = ([layer.diff_id for layer in each.layers] for each in (ancestor, image))
    if new[: len(old)] != old:
        return False
    before, after = (each.config.history for each in (ancestor, image))
    return len(new) > len(old) > 0 or (len(after) > len(before) and after[: len(before)] == before)
