"""The CUDA driver's layers against a libcuda for tests, which works on the host's memory and fails when told to."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from edgejpeg.errors import DeviceError, InvalidInputError, MissingDependencyError
from edgejpeg.runtime.engines import CudaModule, DeviceArray, open_driver, open_engine
from edgejpeg.runtime.engines import driver as driver_module
from edgejpeg.runtime.engines.cuda import PinnedArray, device_view, is_device_array
from edgejpeg.runtime.engines.driver import Driver, ctypes_api
from edgejpeg.runtime.engines.driver_pycuda import PycudaDriver

PTX = b".version 8.5\n.target sm_75\n"


@pytest.fixture
def driver(stub_cuda, stub_cuda_live):
    made = Driver(ctypes_api(str(stub_cuda)))
    yield made
    made.close()
    assert stub_cuda_live() == {}


def _fill(driver, values):
    pinned = PinnedArray(driver, values.shape, values.dtype)
    pinned.array[...] = values
    array = DeviceArray(driver, values.shape, values.dtype)
    driver.to_device(array.pointer, pinned.pointer, pinned.nbytes, 0)
    pinned.close()
    return array


def _read(driver, array):
    pinned = PinnedArray(driver, array.shape, array.dtype)
    driver.to_host(pinned.pointer, array.pointer, pinned.nbytes, 0)
    driver.wait_stream(0)
    values = pinned.array.copy()
    pinned.close()
    return values


def test_facts_of_the_gpu(driver):
    assert (driver.compute_capability, driver.cuda_version, driver.name) == ("8.7", "12.6", "ctypes")
    assert driver.memory() == (512 << 20, 1024 << 20)


def test_a_kernel_runs_on_its_arguments(driver):
    values = np.arange(100, dtype=np.float32)
    with _fill(driver, values) as array:
        module = CudaModule(driver, PTX)
        kernel = module.function("scale")
        kernel(array, np.float32(2.5), np.int32(64), grid=(2,), block=(32,))
        expected = np.concatenate([values[:64] * np.float32(2.5), values[64:]])
        np.testing.assert_array_equal(_read(driver, array), expected)
        module.close()
        module.close()


def test_kernel_arguments_without_a_size_are_refused(driver):
    module = CudaModule(driver, PTX)
    kernel = module.function("scale")
    with pytest.raises(InvalidInputError, match=r"argument 0 of the kernel is 3; .* np.int32\(3\)"):
        kernel(3, grid=(1,), block=(1,))
    with pytest.raises(InvalidInputError, match="one to three sizes"):
        kernel(grid=(0,), block=(1,))
    with pytest.raises(DeviceError, match="too many threads"):
        kernel(np.uint64(0), np.float32(1), np.int32(0), grid=(1,), block=(2048,))
    module.close()


def test_modules_that_cannot_be_loaded(driver, tmp_path, monkeypatch):
    with pytest.raises(DeviceError, match="neither PTX nor a cubin"):
        CudaModule(driver, b"garbage")
    with pytest.raises(InvalidInputError, match=r"cannot read the CUDA module .*none.ptx"):
        CudaModule(driver, tmp_path / "none.ptx")
    monkeypatch.setenv("STUB_CUDA_FAIL", "cuModuleLoadData=209")
    with pytest.raises(DeviceError, match=r"capability 8\.7: .*another compute capability"):
        CudaModule(driver, PTX)
    monkeypatch.setenv("STUB_CUDA_FAIL", "cuModuleLoadData=222")
    with pytest.raises(DeviceError, match="newer than the driver"):
        CudaModule(driver, PTX)
    monkeypatch.delenv("STUB_CUDA_FAIL")
    module = CudaModule(driver, PTX)
    with pytest.raises(DeviceError, match="has no kernel 'other'"):
        module.function("other")
    module.close()


def test_memory_that_is_full_says_how_much_there_is(driver):
    with pytest.raises(DeviceError, match=r"1024\.0 MiB were asked for, 512 of 1024 MiB are free; take a"):
        DeviceArray(driver, (1 << 30,), np.uint8)


@pytest.mark.parametrize("call", ["cuMemHostAlloc", "cuStreamCreate", "cuEventCreate"])
def test_any_call_that_fails_names_itself(driver, monkeypatch, call):
    monkeypatch.setenv("STUB_CUDA_FAIL", f"{call}=700")
    with pytest.raises(DeviceError, match=rf"{call}.* failed: CUDA_ERROR_ILLEGAL_ADDRESS.*started again"):
        {"cuMemHostAlloc": lambda: PinnedArray(driver, (8,), np.uint8), "cuStreamCreate": driver.new_stream,
         "cuEventCreate": driver.new_event}[call]()  # fmt: skip


def test_arrays_free_their_memory_when_they_go(driver, stub_cuda_live):
    arrays = [DeviceArray(driver, (3, 5), np.float16), PinnedArray(driver, (7,), np.int64)]
    assert (stub_cuda_live()["memory"], stub_cuda_live()["pinned"]) == (1, 1)
    arrays[0].close()
    arrays[0].close()
    assert "memory" not in stub_cuda_live()
    arrays.clear()
    assert "pinned" not in stub_cuda_live()


def test_arrays_after_the_gpu_was_closed_do_no_harm(stub_cuda):
    opened = Driver(ctypes_api(str(stub_cuda)))
    array = DeviceArray(opened, (4,), np.uint8)
    opened.close()
    opened.close()
    array.close()
    with pytest.raises(DeviceError, match="was closed"):
        opened.activate()


def test_no_driver_no_gpu_no_such_gpu(stub_cuda, monkeypatch):
    with pytest.raises(DeviceError, match=r"no CUDA driver on this machine \(libno\.so.*which runs on the CPU"):
        ctypes_api("libno.so")
    with pytest.raises(DeviceError, match="there is no GPU 3: the driver sees 1"):
        Driver(ctypes_api(str(stub_cuda)), 3)
    with pytest.raises(InvalidInputError, match="-1"):
        Driver(ctypes_api(str(stub_cuda)), -1)
    monkeypatch.setenv("STUB_CUDA_DEVICES", "0")
    with pytest.raises(DeviceError, match="cuInit failed: CUDA_ERROR_NO_DEVICE"):
        Driver(ctypes_api(str(stub_cuda)))


def test_a_driver_without_a_function_is_too_old(tmp_path, stub_cuda):
    source = tmp_path / "old.c"
    source.write_text("int cuInit(unsigned flags) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "old.so", source], check=True)
    with pytest.raises(DeviceError, match="too old: it has no cuDeviceGetCount"):
        Driver(ctypes_api(str(tmp_path / "old.so")))


def test_a_capture_that_fails_ends_and_destroys_the_graph(driver, stub_cuda_live, monkeypatch):
    stream = driver.new_stream()
    with pytest.raises(ZeroDivisionError):
        driver.capture(stream, lambda: 1 / 0)
    executable = driver.capture(stream, lambda: None)
    driver.launch_graph(executable, stream)
    driver.destroy_graph(executable)
    monkeypatch.setenv("STUB_CUDA_FAIL", "cuGraphInstantiate=901")
    with pytest.raises(DeviceError, match="--noCudaGraph"):
        driver.capture(stream, lambda: None)
    driver.destroy_stream(stream)
    assert set(stub_cuda_live()) <= {"contexts"}


def test_arrays_of_other_libraries_are_not_copied(driver):
    with _fill(driver, np.arange(6, dtype=np.float32).reshape(2, 3)) as array:
        foreign = types.SimpleNamespace(__cuda_array_interface__={**array.__cuda_array_interface__, "stream": 1})
        view = device_view(foreign, driver)
        assert (view.pointer, view.shape, view.dtype) == (array.pointer, (2, 3), np.float32)
        assert view.owner is foreign
        foreign.__cuda_array_interface__["strides"] = (4, 8)
        with pytest.raises(InvalidInputError, match="C-contiguous"):
            device_view(foreign, driver)
        foreign.__cuda_array_interface__["strides"] = (12, 4)
        assert device_view(foreign, driver).pointer == array.pointer
    assert not is_device_array(np.zeros(3))
    with pytest.raises(InvalidInputError, match="ndarray is no array on a GPU"):
        device_view(np.zeros(3), driver)


def test_dlpack_tensors_are_read_where_they_are(driver):
    class Foreign:
        """NumPy's own capsule, said to be on the GPU: the addresses are the host's, as everything of the stub's is."""

        def __init__(self, values, device=0):
            self.values, self.device = values, device

        def __dlpack_device__(self):
            return 2, self.device

        def __dlpack__(self, stream=None):
            assert stream == 1
            return self.values.__dlpack__()

    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    view = device_view(Foreign(values), driver)
    assert (view.pointer, view.shape, view.dtype) == (values.ctypes.data, (2, 3, 4), np.int16)
    with pytest.raises(InvalidInputError, match="C-contiguous"):
        device_view(Foreign(values.transpose(2, 0, 1)), driver)
    with pytest.raises(InvalidInputError, match="on GPU 1, the engine on GPU 0"):
        device_view(Foreign(values, 1), driver)


def test_ways_to_the_driver(stub_cuda, monkeypatch):
    with pytest.raises(InvalidInputError, match="one of pycuda, cuda-python, ctypes; got 'opencl'"):
        open_driver(using="opencl")
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgejpeg\[cuda\]'"):
        open_driver(using="pycuda")
    with pytest.raises(MissingDependencyError, match="pip install 'cuda-bindings'"):
        open_driver(using="cuda-python")
    monkeypatch.setattr(driver_module, "ctypes_api", lambda: ctypes_api(str(stub_cuda)))
    opened = open_driver()
    assert opened.name == "ctypes"
    opened.close()


def test_kernels_are_no_network(tmp_path):
    with pytest.raises(InvalidInputError, match=r"k\.ptx holds kernels and no network; load it with CudaModule"):
        open_engine(tmp_path / "k.ptx")
    with pytest.raises(InvalidInputError, match=r"neither \.onnx nor an engine"):
        open_engine(tmp_path / "k.bin")


BINDINGS_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from edgejpeg.errors import DeviceError
from edgejpeg.runtime.engines import CudaModule, DeviceArray, open_driver
from edgejpeg.runtime.engines.cuda import PinnedArray
driver = open_driver(using="cuda-python")
assert (driver.name, driver.compute_capability, driver.cuda_version) == ("cuda-python", "8.7", "12.6")
host = PinnedArray(driver, (8,), np.float32)
host.array[:] = np.arange(8)
array = DeviceArray(driver, (8,), np.float32)
stream = driver.new_stream()
driver.to_device(array.pointer, host.pointer, host.nbytes, stream)
module = CudaModule(driver, b".version 8.5")
module.function("scale")(array, np.float32(3), np.int32(8), grid=(1,), block=(8,), stream=stream)
driver.to_host(host.pointer, array.pointer, host.nbytes, stream)
driver.wait_stream(stream)
print(host.array.tolist())
first, second = driver.new_event(), driver.new_event(spin=False)
driver.record(first, stream); driver.record(second, stream); driver.wait_event(second)
assert driver.elapsed_ms(first, second) == 1.0
graph = driver.capture(stream, lambda: None)
driver.launch_graph(graph, stream); driver.destroy_graph(graph)
assert driver.memory() == (512 << 20, 1024 << 20)
for call in (lambda: DeviceArray(driver, (1 << 40,), np.uint8), lambda: module.function("none")):
    try:
        call()
        raise SystemExit("did not fail")
    except DeviceError as error:
        print(error)
module.close(); array.close(); host.close()
driver.destroy_event(first); driver.destroy_event(second); driver.destroy_stream(stream)
driver.close()
"""


def test_true_cuda_python_on_the_stub(stub_cuda):
    root = Path(os.environ.get("EDGEJPEG_BINDINGS", Path.home() / ".cache" / "edgejpeg" / "bindings"))
    folder = root / f"cuda-bindings-12.9.10-cp{sys.version_info.major}{sys.version_info.minor}"
    if not (folder / "cuda" / "pathfinder").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--target", str(folder), "cuda-bindings==12.9.10", "cuda-pathfinder==1.9.0"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"cannot get cuda-bindings: {error}")
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip("no wheel of cuda-bindings for this Python from the package index")
    env = {**os.environ, "LD_LIBRARY_PATH": str(stub_cuda.parent)}
    command = [sys.executable, "-c", BINDINGS_CHILD, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[0] == str([3.0 * value for value in range(8)])
    assert "MiB were asked for, 512 of 1024" in lines[1]
    assert "has no kernel 'none'" in lines[2]


class FakePycuda(types.ModuleType):
    """pycuda.driver as its documentation has it, on the stub library."""

    Error = type("Error", (Exception,), {})
    MemoryError = type("MemoryError", (Error,), {})

    def __init__(self, stub):
        super().__init__("pycuda.driver")
        self.api, self.stack = ctypes_api(str(stub)), []
        outer = self

        class Context:
            def push(self):
                outer.stack.append(self)
                outer.api("cuCtxSetCurrent", 0xC0)

            def pop(self=None):
                outer.stack.pop()

            def detach(self):
                outer.api("cuDevicePrimaryCtxRelease", 0)

        class Device:
            def __init__(self, ordinal):
                assert ordinal == 0

            def retain_primary_context(self):
                outer.api("cuDevicePrimaryCtxRetain", 0)
                return Context()

        class Allocation:
            def __init__(self, size):
                try:
                    (self.pointer,) = outer.api("cuMemAlloc", size)
                except DeviceError as error:
                    raise outer.MemoryError("cuMemAlloc failed: out of memory") from error

            def __int__(self):
                return self.pointer

            def free(self):
                outer.api("cuMemFree", self.pointer)

        class Stream:
            def __init__(self):
                (self.handle,) = outer.api("cuStreamCreate", 0)

            def synchronize(self):
                outer.api("cuStreamSynchronize", self.handle)

            def __del__(self):
                outer.api("cuStreamDestroy", self.handle)

        class Function:
            def __init__(self, handle):
                self.handle = handle

            def __call__(self, *values, grid, block, shared, stream):
                assert all(isinstance(value, np.generic) for value in values)
                Driver.launch(outer, self.handle, grid, block, shared, stream.handle if stream else 0, values)

        class Module:
            def __init__(self, image):
                held = ctypes.create_string_buffer(image)
                (self.handle,) = outer.api("cuModuleLoadData", ctypes.addressof(held))

            def get_function(self, name):
                try:
                    return Function(*outer.api("cuModuleGetFunction", self.handle, name.encode()))
                except DeviceError as error:
                    raise outer.Error("cuModuleGetFunction failed: named symbol not found") from error

            def __del__(self):
                outer.api("cuModuleUnload", self.handle)

        self.Device, self.Stream, self.mem_alloc, self.module_from_buffer = Device, Stream, Allocation, Module

    def call(self, *arguments):
        return self.api(*arguments)

    def init(self):
        self.api("cuInit", 0)

    def memcpy_htod_async(self, target, source, stream=None):
        self.api("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, stream.handle if stream else 0)

    def memcpy_dtoh_async(self, target, source, stream=None):
        self.api("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, stream.handle if stream else 0)


def test_pycuda_does_what_the_driver_does(stub_cuda, stub_cuda_live, monkeypatch):
    fake = FakePycuda(stub_cuda)
    monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    monkeypatch.setattr("edgejpeg.runtime.engines.driver_pycuda.ctypes_api", lambda: ctypes_api(str(stub_cuda)))
    opened = open_driver()
    assert isinstance(opened, PycudaDriver) and opened.name == "pycuda" and len(fake.stack) == 1
    values = np.arange(10, dtype=np.float32)
    array = _fill(opened, values)
    module, stream = CudaModule(opened, PTX), opened.new_stream()
    module.function("scale")(array, np.float32(2), np.int32(10), grid=(1,), block=(16,), stream=stream)
    opened.wait_stream(stream)
    np.testing.assert_array_equal(_read(opened, array), 2 * values)
    with pytest.raises(DeviceError, match="512 of 1024 MiB are free"):
        DeviceArray(opened, (1 << 30,), np.uint8)
    with pytest.raises(DeviceError, match="has no kernel 'none'"):
        module.function("none")
    opened.destroy_stream(stream)
    module.close()
    array.close()
    opened.close()
    del module
    assert fake.stack == [] and stub_cuda_live() == {}
