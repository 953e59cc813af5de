"""Verdicts of registration gates as traffic lights."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from pds_bids.reports.canvas import GREEN, GREY, ORANGE, VERMILION

__all__ = ["GateStatus", "Verdict"]


class GateStatus(StrEnum):
    """What a gate said."""

    PASSED = "passed"
    FALLBACK = "fallback"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def colour(self) -> str:
        """Colour of the traffic light."""
        return {"passed": GREEN, "fallback": ORANGE, "failed": VERMILION}.get(self.value, GREY)

    @property
    def symbol(self) -> str:
        """Sign beside the colour, for those who do not see it."""
        return {"passed": "✓", "fallback": "!", "failed": "✗"}.get(self.value, "?")


@dataclass(frozen=True)
class Verdict:
    """What a gate said, and why."""

    status: GateStatus
    reason: str = ""

    @classmethod
    def from_gate(cls, gate: Mapping[str, Any]) -> Self:
        """Read the figures of a gate: ``passed``, ``stage``, ``reason``, or a ``status`` of this module.

        A registration that was meant to be deformable but passed at the affine stage is a fallback.

        Examples
        --------
        >>> Verdict.from_gate({"passed": True, "stage": "affine", "reason": ""}).status
        <GateStatus.FALLBACK: 'fallback'>
        """
        reason = str(gate.get("reason") or "")
        if (said := gate.get("status")) in set(GateStatus):
            return cls(GateStatus(str(said)), reason)
        if not isinstance(passed := gate.get("passed"), bool):
            return cls(GateStatus.UNKNOWN, reason)
        if not passed:
            return cls(GateStatus.FAILED, reason)
        if gate.get("stage") == "affine":
            return cls(GateStatus.FALLBACK, reason or "affine only: the deformable stage did not pass")
        return cls(GateStatus.PASSED, reason)
