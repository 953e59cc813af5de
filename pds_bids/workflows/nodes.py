"""Nodes that every workflow uses."""

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

__all__ = ["identity"]


def identity(fields: list[str], *, name: str) -> pe.Node:
    """Return an ``inputnode`` or ``outputnode``; fields that nobody connects stay undefined."""
    return pe.Node(IdentityInterface(fields, mandatory_inputs=False), name=name)
