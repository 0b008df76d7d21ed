"""Fixtures that several test files share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Triton decides when it is imported, which PyTorch's compiler does as well, whether it interprets.
os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The source checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and images beside the checkout; tests that need it skip without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the shared data folder beside the checkout, which is not on this machine")
    return folder


@pytest.fixture(scope="session")
def native_hooks(tmp_path_factory) -> ModuleType:
    """runtime/native/testing/hooks.py with ``library``, the single stages of the compiled code; built for the tests."""
    path = ROOT / "runtime" / "native" / "testing" / "hooks.py"
    spec = importlib.util.spec_from_file_location("native_hooks", path)
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    if hooks.tool("cmake") is None:
        pytest.skip("cmake, which builds the single stages for tests, is not installed")
    hooks.library = hooks.load_hooks(tmp_path_factory.mktemp("hooks"))
    return hooks


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


@pytest.fixture(scope="session")
def photo() -> Callable[[int, int], np.ndarray]:
    """A function (height, width) -> uint8 RGB crop of a real photograph, or of a synthetic scene without one."""
    base = None
    for package, file in (("skimage", "data/coffee.png"), ("sklearn", "datasets/images/china.jpg")):
        folder = _package_folder(package)
        if folder and (folder / file).is_file() and importlib.util.find_spec("PIL"):
            from PIL import Image

            base = np.asarray(Image.open(folder / file).convert("RGB"))
            break
    if base is None:
        y, x = np.mgrid[0:427, 0:640]
        waves = [128 + 80 * np.sin(x / (9 + 5 * c)) * np.cos(y / (13 + 3 * c)) for c in range(3)]
        base = np.clip(np.stack(waves, 2) + np.random.default_rng(1).normal(0, 8, (427, 640, 3)), 0, 255).astype(
            np.uint8
        )

    def crop(height: int, width: int) -> np.ndarray:
        repeats = (-(-height // base.shape[0]), -(-width // base.shape[1]), 1)
        return np.ascontiguousarray(np.tile(base, repeats)[:height, :width])

    return crop


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch's sums in one order, so that they have the same last bits in every process."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def register_tiny(monkeypatch) -> Callable[[int], None]:
    """A function size -> None that registers a small network, "tiny", of three classes if not told otherwise."""
    torch = pytest.importorskip("torch")
    from edgejpeg.models import register_model, registry

    def tiny(num_classes: int):
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
            torch.nn.Linear(24, num_classes),
        )  # fmt: skip

    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    return lambda size: register_model("tiny", tiny, input_size=(size, size), num_classes=3)


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """A function (folder, name of a network, JPEG layer or None) that writes what ``edgejpeg train`` would."""

    def write(folder: Path, name: str, layer: Any) -> Path:
        from edgejpeg.learn.recipe import load_recipe
        from edgejpeg.learn.runs import LAYER, RunFolder
        from edgejpeg.learn.training_run import layer_options
        from edgejpeg.models import create_model

        model = create_model(name, "none")
        run = RunFolder(folder, {})
        run.open(resume=False)
        described = {key: getattr(model, key) for key in ("mean", "std", "resize", "interpolation")}
        run.write_report(
            {
                "format": 1,
                "kind": "training",
                "model": name,
                "num_classes": model.num_classes,
                "class_names": None,
                "input": {"size": model.input_size, **described},
                "recipe": load_recipe("cifar100").to_dict(),
                "layer": None if layer is None else layer_options(layer),
                "weights_sha256": run.write_weights(model.module.state_dict()),
                "layer_sha256": None if layer is None else run.write_weights(layer.state_dict(), LAYER),
            }
        )
        return folder

    return write


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which interpreters the light part was tested on."""
    tested = [
        str(value)
        for report in terminalreporter.stats.get("passed", [])
        for key, value in getattr(report, "user_properties", [])
        if key == "light part on" and report.when == "call"
    ]
    if tested:
        terminalreporter.write_line(f"light part tested on CPython {', '.join(sorted(tested))}")
