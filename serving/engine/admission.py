"""Whether a request can be drawn, told before it is accepted."""

from __future__ import annotations

from palp.base import Base
from palp.errors import InputError
from palp.words import check_words
from serving.contract import PictureRequest
from serving.engine.stored import Stored
from serving.errors import UnknownPromptAdapterError
from serving.subjects.library import Library
from serving.subjects.records import Record

__all__ = ["Admission"]


class Admission:
    """Checks requests, from any thread.

    Args:
        base, library, stored: as in `BatchEngine`.
        predicts: whether there is a hypernetwork.
        rank: of a slot.
    """

    def __init__(self, base: Base, library: Library, stored: Stored, predicts: bool, rank: int) -> None:
        self._base, self._library, self._stored = base, library, stored
        self._predicts, self._rank = predicts, rank

    def check(self, request: PictureRequest) -> Record | None:
        """The subject's record, if the request can be drawn; reads no tensor.

        Raises:
            InputError, UnknownSubjectError, UnknownPromptAdapterError, SubjectNotReadyError: as `Engine.submit`.
        """
        check_words(request.negative_prompt, ())
        if request.prompt_adapter not in ("auto", "off", *self._stored):
            raise UnknownPromptAdapterError(request.prompt_adapter, self._stored)
        if request.subject is None:
            check_words(request.prompt, ())
            record = None
        else:
            record = self._library.ready(request.owner, request.subject)
            self._check_record(request, record)
        if request.refine:
            self._check_refine(request, record)
        return record

    def _check_record(self, request: PictureRequest, record: Record) -> None:
        if record.base != self._base.fingerprint:
            raise InputError(
                f"subject {record.name!r} was learned on {record.base}, and the engine draws with "
                f"{self._base.fingerprint}: learn it on this base"
            )
        check_words(request.prompt, record.words)
        if record.rank > self._rank:
            raise InputError(
                f"subject {record.name!r} has rank {record.rank}, and a slot has rank {self._rank}: "
                "start the engine with a larger subject rank"
            )

    def _check_refine(self, request: PictureRequest, record: Record | None) -> None:
        if not self._predicts or record is None or request.prompt_adapter != "auto":
            raise InputError(
                "refine trains a predicted adapter, and here there is none: "
                "give a subject, prompt_adapter 'auto' and an engine with a hypernetwork, or set refine to 0"
            )
        if not record.pictures:
            raise InputError(f"subject {record.name!r} was added without pictures, which refining needs: set it to 0")
