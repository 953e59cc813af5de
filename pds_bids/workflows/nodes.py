"""Nodes and connections that every workflow uses."""

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline import engine as pe

__all__ = ["connect_by_name", "identity"]


def identity(fields: list[str], *, name: str) -> pe.Node:
    """Return an ``inputnode`` or ``outputnode``; fields that nobody connects stay undefined."""
    return pe.Node(IdentityInterface(fields, mandatory_inputs=False), name=name)


def connect_by_name(workflow: pe.Workflow, stages: list[pe.Node | pe.Workflow]) -> None:
    """Connect every stage to the earlier stages whose outputs have the names of its inputs.

    The last one before it wins, so a name means the same thing all the way down.
    """
    for position, stage in enumerate(stages):
        for field in _fields(stage, "inputnode"):
            for source in reversed(stages[:position]):
                if field in _fields(source, "outputnode"):
                    names = [
                        field if isinstance(s, pe.Node) else f"{end}.{field}"
                        for s, end in ((source, "outputnode"), (stage, "inputnode"))
                    ]
                    workflow.connect(source, names[0], stage, names[1])
                    break


def _fields(stage: pe.Node | pe.Workflow, end: str) -> list[str]:
    """Return the names at one end of a stage; the first series workflow has no inputs."""
    node = stage if isinstance(stage, pe.Node) else stage.get_node(end)
    return list(node.inputs.copyable_trait_names()) if node is not None else []
