"""Guidance rules, one file each, by name."""

from palp.guidance.composed import composed
from palp.guidance.nfsd import nfsd
from palp.guidance.none import none
from palp.guidance.palp import palp
from palp.guidance.palp_fresh_noise import palp_fresh_noise
from palp.guidance.palp_no_rescale import palp_no_rescale
from palp.guidance.rule import RULES, Denoisers, Draw, GuidanceSettings, Prompt, Rule, find_rule
from palp.guidance.sds import sds

__all__ = [
    "RULES",
    "Denoisers",
    "Draw",
    "GuidanceSettings",
    "Prompt",
    "Rule",
    "composed",
    "find_rule",
    "nfsd",
    "none",
    "palp",
    "palp_fresh_noise",
    "palp_no_rescale",
    "sds",
]
