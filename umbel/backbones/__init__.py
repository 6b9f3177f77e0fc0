"""Backbones: build, load and export; timm is the model library.

from umbel.backbones import load
backbone = load("runs/flowers")           # or a timm name, hf-hub:NAME, a folder, a file
features = backbone.model(backbone.transform(photograph)[None])
"""

from umbel.backbones.loading import Backbone, load

__all__ = ["Backbone", "load"]
