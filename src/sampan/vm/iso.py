"""The small CD on which a guest's first-boot tools find what it is to be (cloud-init's NoCloud)."""

from __future__ import annotations

import io


def seed(files: dict[str, str]) -> bytes:
    """The image of a CD called "cidata" with text files in its top directory."""
    import pycdlib

    disc = pycdlib.PyCdlib()
    disc.new(vol_ident="cidata", joliet=3, rock_ridge="1.09")
    for number, (name, text) in enumerate(sorted(files.items())):
        data = text.encode()
        disc.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    out = io.BytesIO()
    disc.write_fp(out)
    disc.close()
    return out.getvalue()
