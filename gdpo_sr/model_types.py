"""Trainers by the name that `model_type` gives them."""

from gdpo_sr.registry import Registry
from gdpo_sr.stage1.naosd_model import NAOSDModel
from gdpo_sr.stage2.gdpo_model import GDPOModel

MODELS = Registry("model_type")
MODELS.register("GDPOModel")(GDPOModel)
MODELS.register("NAOSDModel")(NAOSDModel)

__all__ = ["MODELS", "GDPOModel", "NAOSDModel"]
