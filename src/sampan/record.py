"""`record`: what the modules of the keeper use of `dataclasses`, which imports `inspect`, `re` and `ast`.

Every container starts as a copy of the keeper, so each megabyte there costs each start: with these
20 lines it is 1.4 MB less. Type checkers see the real dataclass.
"""

from __future__ import annotations

__all__ = ["field", "record"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import field
else:

    class field:
        """A default made anew for each instance."""

        def __init__(self, default_factory):
            self.make = default_factory

    def record(cls):
        """Gives a class of annotated names __init__, __eq__ and __repr__. It has no base class of its own kind."""
        names = tuple(cls.__annotations__)
        defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}

        def __init__(self, *args, **given):
            if len(args) > len(names):
                raise TypeError(f"{cls.__name__} takes {len(names)} values, not {len(args)}")
            for name, value in zip(names, args, strict=False):
                setattr(self, name, value)
            for name in names[len(args) :]:
                if name in given:
                    value = given.pop(name)
                elif name in defaults:
                    value = defaults[name]
                    value = value.make() if isinstance(value, field) else value
                else:
                    raise TypeError(f"{cls.__name__} needs {name}")
                setattr(self, name, value)
            if given:
                raise TypeError(f"{cls.__name__} has no {', '.join(given)}, or has it already")

        def values(self):
            return tuple(getattr(self, name) for name in names)

        cls.__init__ = __init__
        cls.__eq__ = lambda self, other: type(other) is cls and values(self) == values(other)
        cls.__hash__ = None
        cls.__repr__ = lambda self: f"{cls.__name__}{values(self)}"
        return cls
