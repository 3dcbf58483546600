"""Cooperative diffusion recovery likelihood: `CDRL`, with all its methods, and the version."""

__version__ = "0.1.0"
__all__ = ["CDRL"]

from . import likelihood, official, saving  # noqa: F401 (each gives `CDRL` methods)
from .model import CDRL
