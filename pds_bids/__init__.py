"""BIDS App that synthesises the missing one of BOLD and diffusion MRI."""

from importlib.metadata import version

__all__ = ["__version__"]
__version__ = version("pds-bids")
