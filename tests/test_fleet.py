"""An engine of replicas, without Ray: what a lost replica costs, and what callers hear."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import pytest

from palp.errors import InputError, NonFiniteLossError, PalpError
from serving.contract import Cancelled, Details, Done, Engine, Event, Failed, PictureRequest, Queued, Step
from serving.errors import (
    DeadlineError,
    DrainingError,
    QueueFullError,
    SubjectNotReadyError,
    UnknownSubjectError,
)
from serving.fleet import Fleet, Remote, ReplicaLostError
from serving.ray_app import RaySettings, build_app
from tests.http_engine import FakeLibrary

REQUEST = PictureRequest("a cat", steps=3, deadline_s=60.0)
DONE = Done(b"picture", Details({"denoise": 0.5}, 2.0))
STEPS: list[Event] = [Queued(0), Step(1, 3), Step(2, 3, b"preview"), Step(3, 3)]


class Replicas:
    """Attempts in turn, each a list of events; an error in it is raised."""

    def __init__(self, *attempts: Sequence[Event | Exception]) -> None:
        self._attempts = list(attempts)
        self.asked: list[PictureRequest] = []
        self.closed = 0

    async def draw(self, request: PictureRequest) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        try:
            for event in self._attempts.pop(0):
                if isinstance(event, Exception):
                    raise event
                await asyncio.sleep(0)
                yield event
            await asyncio.sleep(60)
        finally:
            self.closed += 1


def fleet_of(draw: Remote, most: int = 2) -> Fleet:
    return Fleet(draw, FakeLibrary(0.0), most)


def heard(replicas: Replicas, during: Callable[[Fleet], Awaitable[None]] | None = None) -> list[Event]:
    """What the caller of one picture hears."""

    async def main() -> list[Event]:
        events: list[Event] = []
        fleet = fleet_of(replicas.draw)
        assert isinstance(fleet, Engine)
        errand = fleet.submit(REQUEST, events.append)
        if during is not None:
            await during(fleet)
        assert errand.task is not None
        await asyncio.wait([errand.task])
        await asyncio.sleep(0)
        assert fleet.stats()["active"] == 0
        return events

    return asyncio.run(main())


def test_events_come_as_the_replica_sends_them() -> None:
    replicas = Replicas([*STEPS, DONE])
    assert heard(replicas) == [*STEPS, DONE]
    assert replicas.closed == 1


@pytest.mark.parametrize("parting", [ReplicaLostError(), Cancelled(), Failed(DrainingError())])
def test_a_lost_picture_is_drawn_again_and_nothing_is_heard_twice(parting: Event | Exception) -> None:
    replicas = Replicas([*STEPS[:3], parting], [parting], [*STEPS, DONE])
    assert heard(replicas) == [*STEPS, DONE]
    assert replicas.closed == 3
    again = {replace(asked, deadline_s=None) for asked in replicas.asked}
    assert again == {replace(REQUEST, deadline_s=None)}


def test_a_picture_waits_while_replicas_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.fleet.PAUSE_S", 0.01)
    full = [Failed(QueueFullError(16, 1.0))]
    assert heard(Replicas(*[full] * 6, [*STEPS, DONE])) == [*STEPS, DONE]


def test_a_picture_that_loses_every_replica_fails() -> None:
    lost = [ReplicaLostError()]
    [event] = heard(Replicas(lost, lost, lost, lost))
    assert isinstance(event, Failed)
    assert "was lost again and again" in str(event.error)


@pytest.mark.parametrize("error", [InputError("the word 'xyzzy' is not known"), ZeroDivisionError("a defect")])
def test_what_a_replica_refuses_is_not_tried_again(error: Exception) -> None:
    replicas = Replicas([Queued(0), Failed(error)], [*STEPS, DONE])
    assert heard(replicas) == [Queued(0), Failed(error)]
    raised = heard(Replicas([error]))
    assert raised == [Failed(error)]


def test_a_cancelled_picture_leaves_its_replica() -> None:
    replicas = Replicas(STEPS[:2])

    async def close(fleet: Fleet) -> None:
        await asyncio.sleep(0.05)
        assert not fleet.drain(0.0)
        fleet.close()

    assert heard(replicas, close) == [*STEPS[:2], Cancelled()]
    assert replicas.closed == 1
    before_it_began = Replicas(STEPS)

    async def close_at_once(fleet: Fleet) -> None:
        fleet.close()

    assert heard(before_it_began, close_at_once)[-1] == Cancelled()


def test_the_deadline_is_kept_here_also_when_no_replica_answers() -> None:
    async def main() -> None:
        events: list[Event] = []
        errand = fleet_of(Replicas([]).draw).submit(replace(REQUEST, deadline_s=0.05), events.append)
        assert errand.task is not None
        await asyncio.wait([errand.task])
        await asyncio.sleep(0)
        [event] = events
        assert isinstance(event, Failed)
        assert isinstance(event.error, DeadlineError)
        assert "0.05 s" in str(event.error)

    asyncio.run(main())


def test_what_cannot_be_accepted_is_refused_at_once() -> None:
    async def main() -> None:
        fleet, events = fleet_of(Replicas([], [], []).draw, most=1), list[Event]()
        with pytest.raises(UnknownSubjectError):
            fleet.submit(replace(REQUEST, subject="nobody"), print)
        library = fleet.subjects
        library.add("", "cat", "hopeless", [])
        with pytest.raises(SubjectNotReadyError):
            fleet.submit(replace(REQUEST, subject="cat"), print)
        fleet.submit(REQUEST, events.append)
        with pytest.raises(QueueFullError):
            fleet.submit(REQUEST, print)
        fleet.close()
        with pytest.raises(DrainingError):
            fleet.submit(REQUEST, print)

    asyncio.run(main())


def test_measurements_are_of_pictures_that_are_done() -> None:
    seen: list[tuple[str, float]] = []

    async def watch(fleet: Fleet) -> None:
        fleet.observe(lambda name, value: seen.append((name, value)))

    heard(Replicas([*STEPS, DONE]), watch)
    assert seen == [("batch_size", 2.0), ("denoise_s", 0.5)]


@pytest.mark.parametrize(
    "error", [UnknownSubjectError("cat"), QueueFullError(3, 1.5), NonFiniteLossError(4, 1), DrainingError()]
)
def test_errors_are_the_same_in_another_process(error: PalpError) -> None:
    there, here = Pipe(duplex=False)
    here.send(error)
    copy = there.recv()
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"replicas": 2}, "there is no setting 'replicas'"),
        ({"batch": 0}, "batch is 0, and must be at least 1"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas is 2, and must be at least 3"),
    ],
)
def test_settings_that_cannot_be_are_a_sentence(args: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        RaySettings.from_mapping(args)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'palp-hyper\[ray\]'"):
        build_app({})


def test_the_shipped_configuration_is_one() -> None:
    import yaml

    config = yaml.safe_load((Path(__file__).parents[1] / "configs" / "serve-ray.yaml").read_text())
    [app] = config["applications"]
    settings = RaySettings.from_mapping(app["args"])
    assert settings.host == config["http_options"]["host"]
    assert app["import_path"] == "serving.ray_app:build_app"
