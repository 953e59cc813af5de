"""Nodes that write into the output folder."""

from nipype.interfaces.base import SimpleInterface

__all__ = ["OutsideInterface"]


class OutsideInterface(SimpleInterface):
    """An interface whose files lie outside of the work folder.

    Its node runs even where Nipype finds it in its cache: somebody may have deleted the outputs and kept the
    work folder.
    """

    _always_run = True
