"""Trainers by the name that `model_type` gives them."""

from gdpo_sr.models.gdpo_model import GDPOModel
from gdpo_sr.models.naosd_model import NAOSDModel
from gdpo_sr.registry import Registry

MODELS = Registry("model_type")
MODELS.register("GDPOModel")(GDPOModel)
MODELS.register("NAOSDModel")(NAOSDModel)

__all__ = ["MODELS", "GDPOModel", "NAOSDModel"]
