"""GDPO-SR in ComfyUI: a loader and a node that restores.

Copy or link this folder to `ComfyUI/custom_nodes/gdpo_sr`, and install the package into ComfyUI's
Python: `pip install PATH_OF_THIS_REPOSITORY`.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
