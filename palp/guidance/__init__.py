"""Guidance rules, one file each; importing a file registers its rule, and `find_rule` finds it by name."""

from palp.guidance import composed, nfsd, none, palp, palp_fresh_noise, palp_no_rescale, regional, sds
from palp.guidance.rule import RULES, Denoisers, Draw, GuidanceSettings, Prompt, Rule, find_rule

RESIDUAL = "regional"
"""The rule of the residual form unless another is asked for: the one whose adapters serve other subjects best."""

__all__ = [
    "RESIDUAL",
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
    "regional",
    "sds",
]
