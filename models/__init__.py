"""Networks by name: ``create_model("efficientnet_lite0")``, torchvision's names, ``timm:NAME``, and your own.

Importing this package needs NumPy alone; torch is imported when a network is made.
"""

if __name__ != "edgejpeg.models":
    raise ImportError(f"import this package as edgejpeg.models, not as {__name__}")

from edgejpeg.models.registry import create_model as create_model
from edgejpeg.models.registry import list_models as list_models
from edgejpeg.models.registry import register_model as register_model
from edgejpeg.models.spec import LoadedModel as LoadedModel
from edgejpeg.models.spec import ModelSpec as ModelSpec

__all__ = ["LoadedModel", "ModelSpec", "create_model", "list_models", "register_model"]
