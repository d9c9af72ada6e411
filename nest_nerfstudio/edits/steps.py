"""All steps of edits, by name."""

from nest_nerfstudio.edits.base import EditableField, EditError, Step
from nest_nerfstudio.edits.looks import Recolor, Relight, Traverse
from nest_nerfstudio.edits.mixing import GenerateMotion, Interpolate, MixingStep, Swap
from nest_nerfstudio.edits.placing import Delete, Duplicate, Keep, Move, Scale, Turn
from nest_nerfstudio.edits.timing import (
    Amplify,
    Freeze,
    Loop,
    Oscillate,
    Retime,
    Reverse,
    ShiftPhase,
    Travel,
    sample_motion,
)

__all__ = [
    "STEPS",
    "Amplify",
    "Delete",
    "Duplicate",
    "EditError",
    "EditableField",
    "Freeze",
    "GenerateMotion",
    "Interpolate",
    "Keep",
    "Loop",
    "MixingStep",
    "Move",
    "Oscillate",
    "Recolor",
    "Relight",
    "Retime",
    "Reverse",
    "Scale",
    "ShiftPhase",
    "Step",
    "Swap",
    "Travel",
    "Traverse",
    "Turn",
    "sample_motion",
]

STEPS: dict[str, type[Step]] = {
    kind.name: kind
    for kind in (
        *(Move, Turn, Scale, Duplicate, Keep, Delete),
        *(Recolor, Traverse, Relight, Swap, Interpolate),
        *(Oscillate, Travel, Retime, Reverse, Freeze, Loop, ShiftPhase, Amplify, GenerateMotion),
    )
}
"""Names of the steps in files and messages."""
