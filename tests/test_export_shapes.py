"""trtexec's syntax of shapes, and the profile that comes of it."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgejpeg.errors import InvalidInputError
from edgejpeg.export.shapes import ShapeRange, parse_shapes, profile_for, shape_ranges

IMAGE, TABLES = (None, 3, 8, 8), (None, 2, 64)


@pytest.mark.parametrize(
    "text, shapes",
    [
        ("image:1x3x224x224", {"image": (1, 3, 224, 224)}),
        ("image:1x3x224x224,tables:1x2x64", {"image": (1, 3, 224, 224), "tables": (1, 2, 64)}),
        (" image : 4x3 , b:7 ", {"image": (4, 3), "b": (7,)}),
        ("'a:b,c':2x2,d:1", {"a:b,c": (2, 2), "d": (1,)}),
    ],
)
def test_shapes_as_trtexec_reads_them(text, shapes):
    assert parse_shapes(text) == shapes


@pytest.mark.parametrize(
    "text",
    ["", "image", "image:", "image:1x", "image:1x3,", ":1x3", "image:1,3", "image:-1x3", "image:1x3;b:1", "image:1X3",
     "image:0x3", "a:1,a:2", "image:1x3x1e9"],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidInputError, match="--minShapes"):
        parse_shapes(text, "--minShapes")


def test_one_shape_or_a_range():
    fixed = {"image": ShapeRange((2, 3), (2, 3), (2, 3))}
    assert shape_ranges("image:2x3") == fixed == shape_ranges(optimum="image:2x3")
    assert shape_ranges() is None
    assert shape_ranges(None, "x:1", "x:2", "x:5") == {"x": ShapeRange((1,), (2,), (5,))}


@pytest.mark.parametrize(
    "texts, words",
    [
        (("x:1", "x:1", None, None), "--shapes fixes"),
        ((None, "x:1", None, None), "--optShapes, --maxShapes is missing"),
        ((None, "x:1", "x:1", None), "--maxShapes is missing"),
        ((None, None, "x:1", "x:1"), "--minShapes is missing"),
        ((None, "x:1", "x:1", "y:1"), "these differ"),
        ((None, "x:2", "x:1", "x:3"), "rise from"),
        ((None, "x:1", "x:4", "x:3"), "rise from"),
        ((None, "x:1", "x:1x1", "x:1"), "rise from"),
    ],
)
def test_incomplete_or_disordered_ranges(texts, words):
    with pytest.raises(InvalidInputError, match=words):
        shape_ranges(*texts)


def test_default_is_one_to_eight_tuned_for_one():
    profile = profile_for({"image": IMAGE, "tables": TABLES}, None)
    assert profile["image"] == ShapeRange((1, 3, 8, 8), (1, 3, 8, 8), (8, 3, 8, 8))
    assert profile["tables"] == ShapeRange((1, 2, 64), (1, 2, 64), (8, 2, 64))


def test_tables_follow_the_batch_of_the_image():
    ranges = shape_ranges(None, "image:2x3x8x8", "image:4x3x8x8", "image:32x3x8x8")
    assert profile_for({"image": IMAGE, "tables": TABLES}, ranges)["tables"].maximum == (32, 2, 64)


@pytest.mark.parametrize(
    "text, words",
    [
        ("imag:1x3x8x8", "no input 'imag'; its inputs are image"),
        ("image:1x3x8x9", "does not fit input 'image', which is Nx3x8x8"),
        ("image:3x8x8", "does not fit"),
        ("image:1x1x3x8x8", "does not fit"),
    ],
)
def test_shapes_that_do_not_fit_the_graph(text, words):
    with pytest.raises(InvalidInputError, match=words):
        profile_for({"image": IMAGE}, shape_ranges(text))


def test_open_axes_besides_the_batch_need_a_shape():
    with pytest.raises(InvalidInputError, match="open axes"):
        profile_for({"image": (None, 3, None, None)}, None)
    assert profile_for({"image": (None, 3, None, None)}, shape_ranges("image:1x3x8x8"))["image"].minimum == (1, 3, 8, 8)
