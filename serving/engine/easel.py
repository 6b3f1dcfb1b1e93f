"""The pictures that share a batch: taken up, advanced step by step, finished, or dropped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence

import torch
from PIL import Image
from torch import Tensor

from palp.adapter import Adapter
from palp.base import Base
from palp.base.device import finish
from palp.errors import InputError, PalpError
from palp.sheets import png_bytes, to_images
from serving.contract import Done, Event, Failed, PictureRequest, Step
from serving.engine.admission import Admission
from serving.engine.drawing import Drawing, Prediction, SharedText, denoise
from serving.engine.entry import Entry
from serving.engine.merging import MergeCosts
from serving.engine.predictions import Predictions
from serving.engine.preparation import Plan, Preparation
from serving.engine.rate import Rate
from serving.engine.settings import EngineSettings
from serving.engine.slots import BARE
from serving.engine.stored import Stored
from serving.subjects.library import Library
from serving.subjects.records import Record

__all__ = ["Easel"]

logger = logging.getLogger(__name__)

COMPRESSION = 3  # of PNG files: they are made on the engine's thread, where time is dearer than bytes


class Easel:
    """What the engine's thread works on. Not for several threads, `check` aside.

    Args:
        base, library, predictions, settings, stored: as in `BatchEngine`.
        end: called with the last event of a request.
        measure: called with every measurement.
    """

    def __init__(
        self,
        base: Base,
        library: Library,
        predictions: Predictions | None,
        settings: EngineSettings,
        end: Callable[[Entry, Event], None],
        measure: Callable[[str, float], None],
        stored: Stored | None = None,
    ) -> None:
        self._base, self._most = base, settings.max_batch
        self._preparation = Preparation(base, library, predictions, settings, stored or {})
        self._admission = Admission(base, library, stored or {}, predictions is not None, self._preparation.slots.rank)
        self._end, self._measure = end, measure
        self._drawings: list[Drawing] = []
        self._shared = SharedText()
        self._lesson: tuple[Plan, Generator[None, None, Adapter]] | None = None
        self._costs = MergeCosts()
        self.rate = Rate()

    @property
    def busy(self) -> bool:
        """Whether there is anything on it."""
        return bool(self._drawings or self._lesson)

    @property
    def places(self) -> int:
        """How many more pictures it can take."""
        return self._most - len(self._drawings) - (self._lesson is not None)

    def fits(self, entry: Entry) -> bool:
        """Whether a request can be taken up beside what is there: one is refined at a time, and takes one place."""
        return not (entry.request.refine and self._lesson)

    @property
    def resident(self) -> int:
        """Slots that hold adapters."""
        return len(self._preparation.slots)

    def check(self, request: PictureRequest) -> Record | None:
        """As `Admission.check`; from any thread."""
        return self._admission.check(request)

    def close(self) -> None:
        """Leave the base as it was."""
        self._preparation.slots.close()

    def take(self, entry: Entry) -> None:
        """Take up a request; one that cannot be prepared ends."""
        try:
            plan = self._preparation.plan(entry)
            lesson = self._preparation.refinement(plan)
            if lesson is None:
                self._begin(plan)
            else:
                self._lesson = plan, lesson
        except Exception as error:
            self._fail(entry, error)

    def drop(self, verdict: Callable[[Entry], Event | None]) -> None:
        """End the requests for which there is an event."""
        for drawing in list(self._drawings):
            if (event := verdict(drawing.entry)) is not None:
                self._let_go(drawing, event)
        if self._lesson is not None:
            plan, lesson = self._lesson
            if (event := verdict(plan.entry)) is not None:
                self._lesson = None
                lesson.close()
                self._end(plan.entry, event)

    def clear(self) -> None:
        """Let go of everything, without a word to anybody."""
        drawings, lesson = self._drawings, self._lesson
        self._drawings, self._lesson = [], None
        for drawing in drawings:
            self._release(drawing)
        if lesson is not None:
            lesson[1].close()

    def step(self, started: float) -> None:
        """A training step of the picture that is being refined, and a denoising step of all that are drawn.

        Args:
            started: when the work for this step began, by `time.monotonic`.
        """
        self._merge()
        if self._lesson is not None:
            self._learn(*self._lesson)
        if self._drawings:
            self._denoise(started)
            self._show(list(self._drawings))
            self._finish([drawing for drawing in self._drawings if drawing.finished])

    def _begin(self, plan: Plan) -> None:
        self._drawings.append(self._preparation.begin(plan))
        for stage, seconds in plan.seconds.items():
            self._measure(f"{stage}_s", seconds)

    def _learn(self, plan: Plan, lesson: Generator[None, None, Adapter]) -> None:
        started = time.monotonic()
        try:
            next(lesson)
        except StopIteration as done:
            self._lesson = None
            try:
                self._preparation.refined(plan, done.value)
                self._begin(plan)
            except Exception as error:
                self._fail(plan.entry, error)
        except Exception as error:
            self._lesson = None
            self._fail(plan.entry, error)
        plan.seconds["refine"] = plan.seconds.get("refine", 0.0) + time.monotonic() - started

    def _merge(self) -> None:
        """Have the slot that every picture goes through in the base's weights, where that pays."""
        slots, slot = self._preparation.slots, self._only_slot()
        if slot == slots.merged:
            return
        if slot == BARE or not self._costs.pays(self._rows, max(drawing.left for drawing in self._drawings)):
            slots.merge(BARE)
            return
        before = time.monotonic()
        slots.merge(slot)
        finish(self._base.device)
        self._costs.merged(time.monotonic() - before)

    def _only_slot(self) -> int:
        """The slot of every picture, `BARE` where there are several; a refinement needs the base bare."""
        slots = {drawing.stage.slot for drawing in self._drawings}
        return slots.pop() if len(slots) == 1 and self._lesson is None else BARE

    @property
    def _rows(self) -> int:
        """Of the denoiser's next call."""
        return sum(len(drawing.stage.text) for drawing in self._drawings)

    def _denoise(self, started: float) -> None:
        """One step of every picture; the pictures of a slot lie side by side, which makes them one product."""
        self._drawings.sort(key=lambda drawing: drawing.stage.slot)
        slot, rows, merged = self._only_slot(), self._rows, self._preparation.slots.merged
        before = time.monotonic()
        size = len(self._drawings)
        shares = sum(1 / drawing.steps for drawing in self._drawings)
        for drawing, prediction in self._predicted():
            try:
                drawing.advance(prediction, size)
                if drawing.preview_due:
                    drawing.estimate = self._base.schedule.to_x0(prediction.output, prediction.x_t, prediction.t)
            except Exception as error:
                self._drop_failed(drawing, error)
        finish(self._base.device)
        now = time.monotonic()
        if slot != BARE:
            self._costs.stepped(rows, slot == merged, now - before)
        for drawing in self._drawings:
            drawing.seconds["denoise"] = drawing.seconds.get("denoise", 0.0) + now - before
        self.rate.step(shares, now - started)
        self._measure("batch_size", float(size))
        self._measure("step_s", now - before)

    def _predicted(self) -> list[tuple[Drawing, Prediction]]:
        """The denoiser's word on every picture; if the batch fails, that on those which go alone."""
        try:
            predictions = denoise(self._base, self._preparation.slots, self._drawings, self._shared)
            return list(zip(self._drawings, predictions, strict=True))
        except Exception:
            logger.exception("a batch of %d failed; each picture goes alone", len(self._drawings))
        alone: list[tuple[Drawing, Prediction]] = []
        for drawing in list(self._drawings):
            try:
                alone.append((drawing, denoise(self._base, self._preparation.slots, [drawing], SharedText())[0]))
            except Exception as error:
                self._drop_failed(drawing, error)
        return alone

    def _show(self, drawings: Sequence[Drawing]) -> None:
        """Tell of the step just made, with a preview where one is due."""
        due = [drawing for drawing in drawings if drawing.estimate is not None]
        previews = dict(self._decoded(due, [d.estimate for d in due if d.estimate is not None]))
        for drawing in drawings:
            drawing.estimate = None
            image = previews.get(drawing)
            preview = None if image is None else png_bytes(image, compression=COMPRESSION)
            drawing.entry.tell(Step(drawing.step, drawing.steps, preview))

    def _finish(self, drawings: Sequence[Drawing]) -> None:
        started = time.monotonic()
        whole = [drawing for drawing in drawings if self._is_finite(drawing)]
        images = self._decoded(whole, [drawing.latents for drawing in whole])
        for drawing, image in images:
            picture = png_bytes(image, drawing.notes, COMPRESSION)
            drawing.seconds["decode"] = time.monotonic() - started
            self._measure("decode_s", drawing.seconds["decode"])
            self._measure("picture_s", time.monotonic() - drawing.entry.accepted_at)
            self._let_go(drawing, Done(picture, drawing.details()))

    def _is_finite(self, drawing: Drawing) -> bool:
        if bool(drawing.latents.isfinite().all()):
            return True
        sentence = "the picture's numbers did not stay finite: choose smaller scales or less guidance"
        self._drop_failed(drawing, InputError(sentence))
        return False

    def _decoded(self, drawings: Sequence[Drawing], latents: Sequence[Tensor]) -> list[tuple[Drawing, Image.Image]]:
        """The pictures of latents; if they cannot be decoded together, those that can alone."""
        if not drawings:
            return []
        try:
            images = to_images(self._base.decode_latents(torch.cat(list(latents))))
            return list(zip(drawings, images, strict=True))
        except Exception as error:
            if len(drawings) == 1:
                self._drop_failed(drawings[0], error)
                return []
        pairs = zip(drawings, latents, strict=True)
        return [found for drawing, one in pairs for found in self._decoded([drawing], [one])]

    def _drop_failed(self, drawing: Drawing, error: Exception) -> None:
        log(drawing.entry, error)
        self._let_go(drawing, Failed(error))

    def _let_go(self, drawing: Drawing, event: Event) -> None:
        self._drawings.remove(drawing)
        self._release(drawing)
        self._end(drawing.entry, event)

    def _release(self, drawing: Drawing) -> None:
        for stage in drawing.stages:
            self._preparation.slots.release(stage.slot)

    def _fail(self, entry: Entry, error: Exception) -> None:
        log(entry, error)
        self._end(entry, Failed(error))


def log(entry: Entry, error: Exception) -> None:
    """Note an error that its caller cannot mend."""
    if not isinstance(error, PalpError):
        logger.error("request %s failed", entry.id, exc_info=error)
