"""Shapes of an engine's inputs in trtexec's syntax, ``image:1x3x224x224,tables:1x2x64``, and the profile they make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgejpeg.errors import InvalidInputError

Shape = tuple[int, ...]

DEFAULT_BATCH = 8
"""The largest batch of an engine when no shapes are given; the smallest, which the engine is tuned for, is 1."""

_ITEM = re.compile(r"\s*(?P<name>[^:,\s]+|'[^']+')\s*:\s*(?P<shape>\d+(x\d+)*)\s*")


@dataclass(frozen=True)
class ShapeRange:
    """The shapes that one input of an engine may have, and the one to tune for."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


def parse_shapes(text: str, option: str = "--shapes") -> dict[str, Shape]:
    """Shapes by input name.

    Args:
        text: ``NAME:1x3x224x224``, several separated by commas; names with commas or colons in single quotes.
        option: for messages.

    Raises:
        InvalidInputError: anything else, a size of 0, a name twice.
    """
    shapes: dict[str, Shape] = {}
    position = 0
    while True:
        match = _ITEM.match(text, position)
        if match is None or (match.end() < len(text) and text[match.end()] != ","):
            raise InvalidInputError(
                f"{option} is NAME:1x3x224x224, several separated by commas; got {text!r}, not understood from "
                f"{text[position:]!r} on"
            )
        name, shape = match["name"].strip("'"), tuple(int(size) for size in match["shape"].split("x"))
        if 0 in shape:
            raise InvalidInputError(f"{option}: sizes are at least 1; got {match['shape']} for {name!r}")
        if name in shapes:
            raise InvalidInputError(f"{option} names {name!r} twice")
        shapes[name] = shape
        if match.end() == len(text):
            return shapes
        position = match.end() + 1


def shape_ranges(
    shapes: str | None = None,
    minimum: str | None = None,
    optimum: str | None = None,
    maximum: str | None = None,
) -> dict[str, ShapeRange] | None:
    """Ranges by input from the texts of ``--shapes``, ``--minShapes``, ``--optShapes``, ``--maxShapes``.

    As with trtexec, ``--shapes`` or ``--optShapes`` alone fixes the shape, and a range needs all of min, opt and max.

    Returns:
        None when nothing is given.

    Raises:
        InvalidInputError: another combination, different names, or sizes out of order.
    """
    given = {"--minShapes": minimum, "--optShapes": optimum, "--maxShapes": maximum}
    if shapes is not None:
        if any(text is not None for text in given.values()):
            raise InvalidInputError(
                "--shapes fixes the shapes; leave it out, or leave out --minShapes, ... --maxShapes"
            )
        return {name: ShapeRange(shape, shape, shape) for name, shape in parse_shapes(shapes).items()}
    if all(text is None for text in given.values()):
        return None
    if optimum is not None and minimum is None and maximum is None:
        return {name: ShapeRange(shape, shape, shape) for name, shape in parse_shapes(optimum, "--optShapes").items()}
    if None in given.values():
        missing = ", ".join(option for option, text in given.items() if text is None)
        raise InvalidInputError(
            f"a range of shapes needs all of --minShapes, --optShapes and --maxShapes; {missing} is missing "
            "(--shapes alone fixes the shapes)"
        )
    low, middle, high = (parse_shapes(text, option) for option, text in given.items() if text is not None)
    if not set(low) == set(middle) == set(high):
        raise InvalidInputError("--minShapes, --optShapes and --maxShapes name the same inputs; these differ")
    ranges = {}
    for name in low:
        triple = ShapeRange(low[name], middle[name], high[name])
        sizes = list(zip(triple.minimum, triple.optimum, triple.maximum, strict=False))
        if not len(low[name]) == len(middle[name]) == len(high[name]) or any(not a <= b <= c for a, b, c in sizes):
            raise InvalidInputError(
                f"shapes of {name!r} rise from --minShapes over --optShapes to --maxShapes; got "
                f"{triple.minimum}, {triple.optimum}, {triple.maximum}"
            )
        ranges[name] = triple
    return ranges


def profile_for(
    inputs: Mapping[str, tuple[int | None, ...]],
    ranges: Mapping[str, ShapeRange] | None,
    batch: int = DEFAULT_BATCH,
) -> dict[str, ShapeRange]:
    """The profile of an engine: a range for each input of a graph.

    Inputs that ``ranges`` does not name, all of them when it is None, are given 1 to ``batch`` on their first axis,
    tuned for 1, where the graph leaves it open: the whole range of the image's batch, when that is known.

    Args:
        inputs: shapes of the graph's inputs by name, None where an axis is dynamic; the first one is the image.
        ranges: from :func:`shape_ranges`.
        batch: the default's largest.

    Raises:
        InvalidInputError: an unknown input, another number of axes, a size that the graph has fixed otherwise, an open
            axis other than the first without a shape, or tables for another batch than the image's.
    """
    ranges = dict(ranges or {})
    for name in ranges:
        if name not in inputs:
            raise InvalidInputError(f"the graph has no input {name!r}; its inputs are {', '.join(inputs)}")
    if ranges and next(iter(inputs)) in ranges:
        batch = ranges[next(iter(inputs))].maximum[0]
    profile = {}
    for name, axes in inputs.items():
        if name not in ranges:
            if None in axes[1:]:
                raise InvalidInputError(f"input {name!r} has open axes besides the batch; give its --shapes")
            low = tuple(1 if size is None else size for size in axes)
            high = tuple(batch if size is None else size for size in axes)
            ranges[name] = ShapeRange(low, low, high)
        chosen = ranges[name]
        for shape in (chosen.minimum, chosen.optimum, chosen.maximum):
            fits = len(shape) == len(axes) and all(
                open_size in (None, size) for size, open_size in zip(shape, axes, strict=True)
            )
            if not fits:
                wanted = "x".join("N" if size is None else str(size) for size in axes)
                raise InvalidInputError(
                    f"shape {'x'.join(map(str, shape))} does not fit input {name!r}, which is {wanted} in the graph"
                )
        profile[name] = chosen
    return profile
