"""XML of strangers: of bounded size and depth, without document types, so without entities of any kind."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import NoReturn
from xml.parsers import expat

from sampan.vm.errors import BadDisk

MOST = 1 << 20
_DEEPEST, _MOST_ELEMENTS = 100, 20_000


def parse(text: bytes) -> ET.Element:
    """The root element; names are "{namespace}name". Raises BadDisk."""
    if len(text) > MOST:
        raise BadDisk(f"the OVF description is larger than {MOST} bytes")
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")
    depth = count = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > _DEEPEST or count > _MOST_ELEMENTS:
            raise BadDisk("the OVF description has too many elements")
        builder.start(_named(name), {_named(key): value for key, value in attributes.items()})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(_named(name))

    def refuse(*_: object) -> NoReturn:
        raise BadDisk("the OVF description has a document type or entities, which are not read")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(text, True)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise BadDisk(f"the OVF description is damaged: {error}") from None


def _named(name: str) -> str:
    return f"{{{name}" if "}" in name else name
