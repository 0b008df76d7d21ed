"""The numbers behind the pictures against the equations, and pictures that open."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")

from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402

from edgejpeg.errors import DataError, InvalidInputError, ModelError  # noqa: E402
from edgejpeg.evaluate.canvas import canvas  # noqa: E402
from edgejpeg.evaluate.figures import (  # noqa: E402
    Explained,
    TablePair,
    draw_class_maps,
    draw_feature_maps,
    draw_quantizer,
    draw_sensitivities,
    draw_tables,
)
from edgejpeg.evaluate.inside import (  # noqa: E402
    activations,
    class_map,
    first_convolution,
    grad_cam_plus_plus,
    last_maps,
)
from edgejpeg.evaluate.quantizer_curves import quantizer_curves  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402
from edgejpeg.jpeg.zigzag import ZIGZAG  # noqa: E402


def opens(path):
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 200 and len(np.unique(np.asarray(image.convert("L")))) > 10
    else:
        assert (b"<svg" if path.suffix == ".svg" else b"%PDF") in path.read_bytes()[:2000]
    return True


@pytest.mark.parametrize(("q", "bits", "reach"), [(1.0, 8, 3.5), (2.5, 4, 10.0), (0.4, 3, 6.0)])
def test_quantizer_curves_are_equations_5_to_7_and_their_derivatives(q, bits, reach):
    """All levels of the alphabet in float64, with autograd through the softmax."""
    alphas = [0.7 / q**2, 3 / q**2, 15 / q**2]
    curves = quantizer_curves(alphas, q=q, bits=bits, reach=reach, points=301)
    assert curves.z[0] == -reach * q and curves.z[-1] == reach * q and curves.soft.shape == (3, 301)
    half = 2 ** (bits - 1)
    level = torch.arange(-half, half + 1, dtype=torch.float64)
    for row, alpha in enumerate(alphas):
        z = torch.tensor(curves.z, requires_grad=True)
        step = torch.full_like(z, q, requires_grad=True)
        inverse = torch.full_like(z, alpha, requires_grad=True)
        weights = torch.softmax(-inverse[:, None] * (z[:, None] - level * step[:, None]) ** 2, dim=1)
        soft = (weights * level * step[:, None]).sum(1)
        expected = [soft, *torch.autograd.grad(soft.sum(), (z, step, inverse))]
        found = (curves.soft[row], curves.by_z[row], curves.by_q[row], curves.by_alpha[row])
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other.detach().numpy(), rtol=1e-8, atol=1e-8 * max(1, q**3))
    hard = np.clip(np.copysign(np.floor(np.abs(curves.z / q) + 0.5), curves.z), -half, half) * q
    np.testing.assert_allclose(curves.hard, hard)


def test_the_authors_window_is_drawn_as_such():
    exact, authors = (quantizer_curves([0.7], window=window) for window in ("exact", 5))
    assert np.abs(exact.soft - exact.z).max() < 1e-4 < 1e-2 < np.abs(authors.soft - authors.z).max()


def test_quantizer_picture(tmp_path):
    curves = quantizer_curves([1, 5, 20])
    for name in ("q.png", "q.svg", "q.pdf"):
        draw_quantizer(curves, tmp_path / name)
        assert opens(tmp_path / name)
    draw_quantizer(curves, tmp_path / "one.png", ["q"])
    draw_quantizer(curves, tmp_path / "three.png", ["z", "q", "alpha"])
    assert opens(tmp_path / "one.png") and opens(tmp_path / "three.png")
    for panels, message in (([], "got none"), (["w"], "got w")):
        with pytest.raises(InvalidInputError, match=message):
            draw_quantizer(curves, tmp_path / "x.png", panels)
    with pytest.raises(InvalidInputError, match="at most 6 curves"):
        draw_quantizer(quantizer_curves([1] * 7), tmp_path / "x.png")
    for arguments in (([],), ([1], 2.0, 1)):
        with pytest.raises(InvalidInputError, match="curves need"):
            quantizer_curves(arguments[0], points=arguments[2] if len(arguments) > 2 else 10)
    assert not (tmp_path / "x.png").exists()


def pair(quality):
    return TablePair(f"IJG {quality}", np.stack([t.array for t in ijg_tables(quality)]).astype(float))


def test_tables_picture(tmp_path):
    change = draw_tables(pair(75), pair(30), tmp_path / "t.png")
    np.testing.assert_allclose(2**change * pair(75).steps, pair(30).steps)
    same = draw_tables(pair(50), pair(50), tmp_path / "same.svg")
    assert not same.any() and opens(tmp_path / "t.png") and opens(tmp_path / "same.svg")
    for steps in (np.zeros((2, 8, 8)), np.full((2, 8, 8), np.nan), np.ones((8, 8))):
        with pytest.raises(InvalidInputError, match="steps above 0"):
            draw_tables(pair(50), TablePair("x", steps), tmp_path / "x.png")


def test_sensitivities_picture(tmp_path, rng):
    values = rng.gamma(1, 1e-4, (3, 8, 8))
    values[2, 7, 7] = 0  # a logarithm has no place for it
    drawn = draw_sensitivities([("a", values, values / 10), ("b", values * 3, None)], tmp_path / "s.png")
    assert [name for name, _ in drawn] == ["a", "b"] and opens(tmp_path / "s.png")
    np.testing.assert_array_equal(drawn[0][1], values.reshape(3, 64)[:, ZIGZAG])
    with pytest.raises(InvalidInputError, match="1 to 4"):
        draw_sensitivities([], tmp_path / "x.png")


def test_feature_map_picture_takes_the_channels_that_change_most(tmp_path, rng):
    before = rng.normal(size=(5, 6, 7))
    after = before + np.array([0.1, 3, 0, -2, 0.5])[:, None, None]
    images = tuple(rng.integers(0, 256, (24, 28, 3), dtype=np.uint8) for _ in range(2))
    assert draw_feature_maps(images, (before, after), tmp_path / "f.png", layer="x", channels=3) == [1, 3, 4]
    assert opens(tmp_path / "f.png")
    with pytest.raises(InvalidInputError, match="one shape"):
        draw_feature_maps(images, (before, after[:4]), tmp_path / "x.png", layer="x")
    draw_class_maps([Explained("a", images[0], rng.random((24, 28)))], tmp_path / "g.png", title="t")
    assert opens(tmp_path / "g.png")


def test_a_picture_that_cannot_be_written(tmp_path):
    with pytest.raises(InvalidInputError, match=r"ends in \.png, \.svg, \.pdf"), canvas(tmp_path / "x.jpg", 1, 1):
        pass
    with pytest.raises(DataError, match="cannot be written"), canvas(tmp_path / "no" / "x.png", 1, 1):
        pass


class Small(nn.Module):
    """A linear end behind the maps, which Grad-CAM++'s closed form asks for; an in-place ReLU; a second output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.end = nn.Linear(4 * 36, 5)
        self.unused = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.end(self.act(self.stem(x)).flatten(1))


def test_layers_by_the_order_in_which_they_run():
    network, x = Small(), torch.randn(1, 3, 12, 12)
    assert first_convolution(network, x) == "stem" and last_maps(network, x) == "act"
    before = activations(network, x, "stem")
    torch.testing.assert_close(before, network.stem(x))  # not what the in-place ReLU made of it
    assert float(before.detach().min()) < 0 and not before.requires_grad
    assert all(p.requires_grad for p in network.parameters()) and not network.stem._forward_hooks
    for call, message in (
        (lambda: activations(network, x, "none"), "has no layer 'none'; it has stem"),
        (lambda: activations(network, x, ""), "has no layer ''"),
        (lambda: activations(network, x, "unused"), "does not run"),
        (lambda: activations(network, x, "end"), r"answers \(1, 5\)"),
        (lambda: grad_cam_plus_plus(network, x, "act", 5), "classes 0..4; got 5"),
        (lambda: grad_cam_plus_plus(network, x.expand(2, -1, -1, -1), "act"), "one image"),
        (lambda: first_convolution(nn.Flatten(), x), "no convolution"),
        (lambda: last_maps(nn.Flatten(), x), "no layer with maps"),
    ):
        with pytest.raises(ModelError, match=message):
            call()


def test_grad_cam_plus_plus_is_its_definition_by_third_derivatives():
    """alpha = Y'' / (2 Y'' + sum(A) Y''') with Y = exp(S), each derivative in one pixel [eq. 10], by autograd."""
    network, x = Small().double(), torch.randn(1, 3, 12, 12, dtype=torch.float64)
    maps = network.act(network.stem(x)).detach()
    target = 3
    expected = torch.zeros(6, 6, dtype=torch.float64)
    for k in range(4):
        weight = torch.tensor(0.0, dtype=torch.float64)
        for i in range(6):
            for j in range(6):
                pixel = maps[0, k, i, j].clone().requires_grad_()
                changed = maps.clone()
                changed[0, k, i, j] = pixel
                y = torch.exp(network.end(changed.flatten(1))[0, target])
                (first,) = torch.autograd.grad(y, pixel, create_graph=True)
                (second,) = torch.autograd.grad(first, pixel, create_graph=True)
                (third,) = torch.autograd.grad(second, pixel)
                alpha = second / (2 * second + maps[0, k].sum() * third)
                weight = weight + (alpha * first.relu()).detach()
        expected += weight * maps[0, k]
    expected = expected.relu()
    logits = network(x)
    found = grad_cam_plus_plus(network, x, "act", target)
    (gradient,) = torch.autograd.grad(network.end(maps.requires_grad_().flatten(1))[0, target], maps)
    torch.testing.assert_close(class_map(maps.detach()[0], gradient[0]) * logits[0, target].exp(), expected)
    grown = nn.functional.interpolate(expected[None, None], (12, 12), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(found.map, grown / grown.max())
    assert (found.target, found.top1) == (target, int(logits.argmax()))
    assert found.probability == pytest.approx(float(logits.detach().softmax(1)[0, target]))
    assert grad_cam_plus_plus(network, x, "act").target == int(logits.argmax())
    assert not class_map(maps.detach()[0], torch.zeros_like(maps[0])).any()


def test_grad_cam_plus_plus_is_that_of_the_grad_cam_package():
    """The package itself is not needed by anything here; the check runs where it is installed."""
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        pytest.skip("the package grad-cam is not installed")
    from edgejpeg.models.torchvision_compat import import_torchvision

    import_torchvision()
    package = importlib.import_module("pytorch_grad_cam")
    network, x = Small(), torch.randn(1, 3, 12, 12)
    target = package.utils.model_targets.ClassifierOutputTarget(2)
    theirs = package.GradCAMPlusPlus(model=network, target_layers=[network.act])(x, [target])[0]
    ours = grad_cam_plus_plus(network, x, "act", 2).map
    # Theirs stretches from the smallest value to the largest, and enlarges as OpenCV does.
    low = float(ours.min())
    np.testing.assert_allclose((ours - low) / (1 - low), theirs, atol=2e-2)
