"""Prompt-aligned personalization of text-to-image models (PALP, arXiv 2401.06105)."""

__all__ = ["__version__"]

__version__ = "0.1.0"
