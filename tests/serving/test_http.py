"""What a client sees: OpenAI's form and ours, events, refusals that say when, and that leaving frees the slot."""

import base64
import io
import time

import numpy as np
import pytest
import torch
from caller import Caller, Start, until
from PIL import Image

from ptq_export.engines.base import Engine
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler
from ptq_export.serving.pictures import picture
from ptq_export.serving.request import Subject
from ptq_export.serving.service import Service


def outcomes(caller: Caller) -> dict[str, int]:
    lines = [
        line for line in caller.get("/metrics").body.decode().splitlines() if line.startswith("ptq_requests_total")
    ]
    return {line.split('outcome="')[1].split('"')[0]: int(float(line.split()[-1])) for line in lines}


def is_free(service: Service) -> bool:
    return service.models["tiny"].batcher.accepted == 0 and service.answering == 0


def drawn(engine: Engine, subject: Subject, seed: int) -> torch.Tensor:
    conditions = {"label": torch.tensor([2]), "tokens": torch.tensor([[[0.1, 0.2, 0.3]]])}
    scheduler = make_scheduler(subject.schedule, "ddim")
    return sample_loop(engine, scheduler, initial_noise((1, 2, 4, 4), seed), 10, conditions, seed=seed)


def test_equal_seed_is_the_same_picture_in_every_form(engine: Engine, subject: Subject, start: Start) -> None:
    _, caller = start(engine)
    expected = [drawn(engine, subject, seed) for seed in (5, 6)]
    asked = {"seed": 5, "steps": 10, "class": 2}
    data = caller.generate(**asked, n=2, user="me").json["data"]
    assert [each["seed"] for each in data] == [5, 6]
    pngs = [base64.b64decode(each["b64_json"]) for each in data]
    assert pngs == [picture(sample[0], (-1.0, 1.0)) for sample in expected]
    assert Image.open(io.BytesIO(pngs[0])).size == (8, 4)  # two channels side by side
    assert caller.generate(**asked, response_format="png").body == pngs[0]
    for way in ({"response_format": "npy"}, {"accept": "application/octet-stream"}):
        found = np.load(io.BytesIO(caller.generate(**asked, n=2, **way).body))
        assert np.array_equal(found, torch.cat(expected).numpy())


def test_a_stream_tells_every_step_previews_and_the_picture(engine: Engine, start: Start) -> None:
    _, caller = start(engine)
    asked = {"seed": 3, "steps": 6, "class": 1}
    events = list(caller.events(**asked, n=2, partial_images=2))
    for index in (0, 1):
        own = [each for each in events if each["index"] == index]
        kinds = [each["type"].removeprefix("image_generation.") for each in own]
        assert kinds.count("progress") == 6 and kinds.count("partial_image") == 2 and kinds[-1] == "completed"
        assert [each["step"] for each in own if each["type"].endswith("partial_image")] == [2, 4]
    plain = [each["b64_json"] for each in caller.generate(**asked, n=2).json["data"]]
    done = {each["index"]: each["b64_json"] for each in events if each["type"].endswith("completed")}
    assert [done[0], done[1]] == plain


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_frees_its_slot(slow_engine: Engine, start: Start, stream: bool) -> None:
    service, caller = start(slow_engine)
    connection = caller.open(steps=500, stream=stream)
    assert until(lambda: service.models["tiny"].batcher.running == 1)
    connection.close()
    assert until(lambda: is_free(service), 0.5)
    assert outcomes(caller)["disconnected"] == 1


def test_what_finds_no_room_is_told_when_to_come_again(slow_engine: Engine, start: Start) -> None:
    service, caller = start(slow_engine, queue=2)
    connections = [caller.open(steps=200) for _ in range(2)]
    assert until(lambda: service.models["tiny"].batcher.accepted == 2)
    assert caller.generate(n=3).error["param"] == "n"
    refused = caller.generate(steps=5)
    assert (refused.status, refused.error["code"]) == (429, "busy")
    assert 1 <= int(refused.headers["retry-after"]) <= 8
    for connection in connections:
        connection.close()
    assert until(lambda: is_free(service))
    assert caller.generate(steps=5).status == 200


def test_a_request_past_its_time_is_ended_by_name_and_its_slot_free(slow_engine: Engine, start: Start) -> None:
    service, caller = start(slow_engine, timeout=0.3)
    late = caller.generate(steps=500)
    assert (late.status, late.error["code"]) == (504, "timeout")
    assert until(lambda: is_free(service), 0.5)
    *_, last = caller.events(steps=500)
    assert (last["type"], last["error"]["code"]) == ("error", "timeout")
    assert until(lambda: is_free(service), 0.5)
    assert outcomes(caller)["timed_out"] == 2


def test_health_is_told_at_once_under_load(slow_engine: Engine, start: Start) -> None:
    service, caller = start(slow_engine)
    connections = [caller.open(steps=250) for _ in range(30)]
    assert until(lambda: service.models["tiny"].batcher.accepted == 30)
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/v1/models"):
        began = time.monotonic()
        assert caller.get(path).status == 200
        assert time.monotonic() - began < 1
    for connection in connections:
        connection.close()
    assert until(lambda: is_free(service))


def test_metrics_count_steps_rows_slots_and_outcomes(engine: Engine, start: Start) -> None:
    _, caller = start(engine)
    caller.generate(steps=7)
    caller.generate(steps=-1)
    text = caller.get("/metrics").body.decode()
    assert 'ptq_step_seconds_count{model="tiny"} 7.0' in text
    assert 'ptq_batch_rows_sum{model="tiny"} 7.0' in text
    assert 'ptq_slots_in_use{model="tiny"} 0.0' in text and 'ptq_queue_pictures{model="tiny"} 0.0' in text
    assert outcomes(caller) == dict.fromkeys(outcomes(caller), 0) | {"finished": 1, "refused": 1}


def test_a_draining_service_finishes_what_it_accepted_and_refuses_the_rest(slow_engine: Engine, start: Start) -> None:
    service, caller = start(slow_engine)
    connection = caller.open(steps=30)
    assert until(lambda: service.models["tiny"].batcher.running == 1)
    service.draining = True
    assert (caller.get("/readyz").status, caller.get("/healthz").status) == (503, 200)
    refused = caller.generate(steps=1)
    assert (refused.status, refused.error["code"], refused.headers["connection"]) == (503, "draining", "close")
    assert connection.getresponse().status == 200
    connection.close()


def test_the_page_loads_nothing_from_elsewhere(engine: Engine, start: Start) -> None:
    _, caller = start(engine)
    page = caller.get("/docs").body.decode()
    assert "partial_images" in page and "://" not in page and "src=" not in page
