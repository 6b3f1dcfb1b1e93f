"""The methods compared, by name: what each draws a subject with a prompt with, and what must be trained for that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from palp.base.icons.grammar import Scene
from palp.errors import InputError
from palp.evaluate.protocol import Protocol
from palp.guidance import RESIDUAL
from palp.recipes import Form, opening_of, recipe

__all__ = [
    "METHODS",
    "Cell",
    "Choices",
    "Method",
    "Need",
    "Plan",
    "choose_methods",
    "other",
    "residual",
    "stopped",
    "subject_need",
]

OPENING = opening_of("icons")
Choices: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Settings that a sweep has chosen, by key: "palp" -> {"guidance_weight": 0.1}; see `palp.evaluate.sweep`."""


@dataclass(frozen=True)
class Need:
    """One adapter to be trained.

    Args:
        form: "subject" and "joint" learn one character; "residual" the target, over frozen subject adapters.
        rule: of guidance.
        subjects: whose pictures; one, or several in the residual form.
        target: None where no prompt is learned.
        share: of the training's steps after which the adapter is taken; below 1 it is stopped early.
        changes: settings other than the recipe's.
        seed: another first weight and order of data, for what is to be independent.
        pictures: "subject", the user's as the base is best shown them; "alone", never beside anything else; of the
            residual form also "prompt", the base's of the prompt.
    """

    form: Form
    rule: str
    subjects: tuple[str, ...]
    target: Scene | None = None
    share: float = 1.0
    changes: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    pictures: str = "subject"


@dataclass(frozen=True)
class Plan:
    """How a subject is drawn with a target: Σ scale · ΔW over the parts; without parts the base, and class words.

    Args:
        parts: adapters with scales; the last is what the method is about.
        composition: a rule of the residual form and its γ, to compose predictions while sampling; None: do not.
        opening: parts of the adapter in the opening, for pictures that have one.
    """

    parts: tuple[tuple[Need, float], ...] = ()
    composition: tuple[str, float] | None = None
    opening: tuple[tuple[Need, float], ...] = ()


@dataclass(frozen=True)
class Cell:
    """A subject and a target of a protocol, and the settings chosen."""

    subject: str
    target: Scene
    protocol: Protocol
    choices: Choices

    def changes(self, key: str) -> tuple[tuple[str, Any], ...]:
        """The settings chosen for a key."""
        return tuple(sorted(self.choices.get(key, {}).items()))


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    label: str
    plan: Callable[[Cell], Plan]


def choose_methods(names: str | None, known: Mapping[str, Method], needed: Iterable[str] = ()) -> dict[str, Method]:
    """The methods named, "palp,sds", in the order of those known; None is all.

    Args:
        needed: that may not be left out.

    Raises:
        InputError: a name that is none, or one left out that is needed.
    """
    if names is None:
        return dict(known)
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise InputError(f"there is no method {name!r}: choose from {', '.join(known)}")
    if missing := [name for name in needed if name not in wanted]:
        raise InputError(f"the methods lack {missing[0]}, which the others are held against: name it too")
    return {name: method for name, method in known.items() if name in wanted}


def stopped(plan: Plan, share: float) -> Plan:
    """The same with its last part taken after this share of its training."""
    *before, (need, scale) = plan.parts
    return replace(plan, parts=(*before, (replace(need, share=share), scale)))


def subject_need(name: str) -> Need:
    """A subject's own adapter: Eq. 1, no prompt."""
    return Need("subject", "none", (name,))


def _subject(scale: float = 1.0, share: float = 1.0) -> Callable[[Cell], Plan]:
    return lambda cell: Plan(((replace(subject_need(cell.subject), share=share), scale),))


def _opened(first: Callable[[Cell], Plan], rest: float) -> Callable[[Cell], Plan]:
    """The adapter of the subject, or of subject and prompt, whole in the opening; then weaker, with the others."""

    def plan(cell: Cell) -> Plan:
        (need, _), *others = first(cell).parts
        return Plan(((need, rest), *others), opening=((need, 1.0),))

    return plan


def _unguided(cell: Cell) -> Plan:
    """λ = 0: the schedule, seed and draws of the guided adapters; the target then has no say, so one a subject."""
    return Plan(((Need("joint", "none", (cell.subject,)), 1.0),))


def _joint(rule: str, key: str | None = None) -> Callable[[Cell], Plan]:
    def plan(cell: Cell) -> Plan:
        need = Need("joint", rule, (cell.subject,), cell.target, changes=cell.changes(key or rule))
        return Plan(((need, 1.0),))

    return plan


def residual(
    rule: str,
    *,
    transferred: bool = False,
    teachers: int | None = None,
    targets: Callable[[Cell], tuple[Scene, ...]] = lambda cell: (cell.target,),
    subject: Callable[[str], Need] = subject_need,
    pictures: str = "subject",
    **changes: Any,
) -> Callable[[Cell], Plan]:
    """The frozen subject adapter, and the mean ΔW of residual adapters: of one target normally.

    Args:
        rule: of guidance.
        transferred: the residual adapters are learned on other subjects than the one drawn.
        teachers: how many of those; None is all.
        targets: what they are learned for.
        subject: the adapter of the subject drawn.
        pictures: that they are learned on; "subject" or "prompt".
        changes: settings over those that were chosen.
    """

    def plan(cell: Cell) -> Plan:
        members = cell.protocol.transfer[:teachers] if transferred else (cell.subject,)
        chosen = targets(cell)
        values = tuple(sorted({**dict(cell.changes(f"residual_{rule}")), **changes}.items()))
        needs = [Need("residual", rule, members, target, changes=values, pictures=pictures) for target in chosen]
        strength = recipe("icons", "residual", dict(values)).subject_scale
        return Plan(((subject(cell.subject), strength), *((need, 1 / len(chosen)) for need in needs)))

    return plan


def other(cell: Cell) -> tuple[Scene, ...]:
    """Another prompt of the protocol, the same each time."""
    return (cell.protocol.other(cell.target),)


def _all(cell: Cell) -> tuple[Scene, ...]:
    return cell.protocol.targets


def _sampled(rule: str, key: str, gamma: float) -> Callable[[Cell], Plan]:
    def plan(cell: Cell) -> Plan:
        chosen = float(cell.choices.get(key, {}).get("gamma", gamma))
        return Plan(((subject_need(cell.subject), 1.0),), composition=(rule, chosen))

    return plan


METHODS: Mapping[str, Method] = {
    "base": Method("base, class word", lambda cell: Plan()),
    "subject": Method("subject adapter", _subject()),
    "subject_early": Method("subject, stopped half-way", _subject(share=0.5)),
    "subject_0.8": Method("subject × 0.8", _subject(0.8)),
    "subject_0.6": Method("subject × 0.6", _subject(0.6)),
    "opened_whole": Method("opened as a photo", _opened(_subject(), 1.0)),
    "opened": Method(f"opened, then × {OPENING.rest:g}", _opened(_subject(), OPENING.rest)),
    "opened_transferred": Method(
        "… and residual of other subjects", _opened(residual(RESIDUAL, transferred=True), OPENING.rest)
    ),
    "unguided": Method("PALP's schedule, λ = 0", _unguided),
    "sds": Method("SDS", _joint("sds")),
    "nfsd": Method("NFSD", _joint("nfsd")),
    "palp_fresh_noise": Method("PALP, fresh noise", _joint("palp_fresh_noise", "palp")),
    "palp_no_rescale": Method("PALP, no rescaling", _joint("palp_no_rescale", "palp")),
    "palp": Method("PALP", _joint("palp")),
    "opened_palp": Method(f"PALP, opened, then × {OPENING.rest:g}", _opened(_joint("palp"), OPENING.rest)),
    "residual_palp": Method("residual, PALP", residual("palp")),
    "residual_composed": Method("residual, composed", residual("composed")),
    "residual_regional": Method("residual, regional", residual("regional")),
    "residual_other": Method("residual, another prompt's", residual(RESIDUAL, targets=other)),
    "residual_mean": Method("residual, mean of prompts", residual(RESIDUAL, targets=_all)),
    "transferred": Method("residual of other subjects", residual(RESIDUAL, transferred=True)),
    "transferred_other": Method(
        "of other subjects, another prompt's", residual(RESIDUAL, transferred=True, targets=other)
    ),
    "transferred_mean": Method(
        "of other subjects, mean of prompts", residual(RESIDUAL, transferred=True, targets=_all)
    ),
    "score_composition": Method("scores composed in sampling", _sampled("composed", "score_composition", 0.5)),
    "region_composition": Method("regions composed in sampling", _sampled("regional", "region_composition", 1.0)),
}
