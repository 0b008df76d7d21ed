"""The repair of torchvision's import happens for exactly one failure."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("edgejpeg.models")

NMS = "operator torchvision::nms does not exist"


@pytest.fixture
def fake_torchvision(tmp_path):
    """Runs code in a process whose torchvision is a package of ours."""

    def run(init, code):
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "__init__.py").write_text(textwrap.dedent(init))
        (package / "half.py").write_text("")
        return subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + textwrap.dedent(code)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_the_missing_operators_are_defined_and_the_import_repeated(fake_torchvision):
    init = f"""
        import torch
        from torchvision import half
        half.marker = "first" if not hasattr(torch, "_tried") else "second"
        torch._tried = True
        if not torch._C._dispatch_has_kernel("torchvision::nms") and not hasattr(torch.ops.torchvision, "nms"):
            raise RuntimeError({NMS!r})
        names = [torch.ops.torchvision.nms.default._schema, torch.ops.torchvision.qnms.default._schema]
    """
    code = """
        from edgejpeg.models.torchvision_compat import import_torchvision
        torchvision = import_torchvision()
        assert import_torchvision() is torchvision
        print(torchvision.half.marker, len(torchvision.names))
    """
    done = fake_torchvision(init, code)
    assert done.stdout.split() == ["second", "2"], done.stderr


@pytest.mark.parametrize(
    "failure",
    [
        'RuntimeError("operator torchvision::roi_align does not exist")',
        f'RuntimeError("{NMS}!")',
        f'ImportError("{NMS}")',
        f'AttributeError("{NMS}")',
        'OSError("libcudart.so.13: cannot open shared object file")',
        'ModuleNotFoundError("No module named numpy", name="numpy")',
    ],
)
def test_every_other_failure_passes_unchanged(fake_torchvision, failure):
    code = """
        import torch
        from edgejpeg.models.torchvision_compat import import_torchvision
        try:
            import_torchvision()
        except BaseException as error:
            print(type(error).__name__, "|", error)
        print(hasattr(torch.ops.torchvision, "nms"))
    """
    done = fake_torchvision(f"raise {failure}", code)
    lines = done.stdout.splitlines()
    error = eval(failure)
    assert lines[0] == f"{type(error).__name__} | {error}", done.stderr
    assert lines[1] == "False"  # nothing was defined


def test_a_failure_that_the_schemas_do_not_cure_passes(fake_torchvision):
    code = """
        from edgejpeg.models.torchvision_compat import import_torchvision
        for _ in range(2):
            try:
                import_torchvision()
            except RuntimeError as error:
                print(error)
    """
    done = fake_torchvision(f"raise RuntimeError({NMS!r})", code)
    assert done.stdout.splitlines() == [NMS, NMS], done.stderr


def test_a_missing_torchvision_is_named_with_the_command():
    code = """
        import sys
        sys.modules["torchvision"] = None
        from edgejpeg.errors import MissingDependencyError
        from edgejpeg.models import list_models
        from edgejpeg.models.torchvision_compat import import_torchvision
        try:
            import_torchvision("resnet18")
        except MissingDependencyError as error:
            print(error)
        print([name for name in list_models() if not name.startswith("cifar_")])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    first, second = done.stdout.splitlines()
    assert "resnet18 needs the package 'torchvision'" in first and "pip install 'edgejpeg[train]'" in first
    assert second == "['efficientnet_lite0']"


def test_the_real_one():
    pytest.importorskip("edgejpeg.models")
    code = "from edgejpeg.models.torchvision_compat import import_torchvision as i; print(i().models.resnet18.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "resnet18" or "MissingDependencyError" in done.stderr
