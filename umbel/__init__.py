"""Umbel: vision backbones for plants, pretrained without labels."""

__version__ = "0.1.0"
