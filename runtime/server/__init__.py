"""The inference server: Open Inference Protocol v2 over HTTP, JPEG files in, classes out.

>>> from edgejpeg.runtime.server.app import create_app
>>> from edgejpeg.runtime.server.model import load_model
>>> from edgejpeg.runtime.server.service import InferenceService
>>> app = create_app(InferenceService(load_model("resnet18.onnx")))      # an ASGI application, to embed or to run
"""
