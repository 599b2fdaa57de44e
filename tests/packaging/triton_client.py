"""What the tests ask of a tritonserver, in a process of its own: tritonclient wants other versions than this project.

`triton_client.py ADDRESS draw|step REQUESTS.json ANSWERS.json`: `draw` asks the sampler for all pictures at once, over
gRPC streams; a request with `leave_after` goes away after so many previews. `step` asks for steps, one by one.
"""

import json
import queue
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

KINDS = {"seed": np.int64, "label": np.int64, "unconditional_label": np.int64, "timestep": np.int64}
KINDS |= {"steps": np.int32, "preview": np.int32}


def tensors(client: Any, inputs: dict[str, Any]) -> list[Any]:
    found = []
    for name, value in inputs.items():
        array = np.array(value, KINDS.get(name, np.float32))
        tensor = client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        found.append(tensor)
    return found


def draw(address: str, request: dict[str, Any]) -> dict[str, Any]:
    """Every answer of the sampler, or the error."""
    client, answers = grpc.InferenceServerClient(address), queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    inputs, parameters = tensors(grpc, request["inputs"]), request.get("parameters")
    client.async_stream_infer("sampler", inputs, parameters=parameters, enable_empty_final_response=True)
    frames: list[dict[str, Any]] = []
    while len(frames) != request.get("leave_after", -1):
        result, error = answers.get(timeout=300)
        if error is not None:
            client.stop_stream()
            return {"frames": frames, "error": error.message(), "status": error.status()}
        answer = result.get_response()
        frames += [{it.name: result.as_numpy(it.name).tolist() for it in answer.outputs}] if answer.outputs else []
        if answer.parameters["triton_final_response"].bool_param:
            break
    client.stop_stream(cancel_requests="leave_after" in request)
    return {"frames": frames}


def step(address: str, request: dict[str, Any]) -> dict[str, Any]:
    """A prediction, over HTTP or gRPC."""
    module = http if request["protocol"] == "http" else grpc
    client = module.InferenceServerClient(address.split("/")[request["protocol"] == "grpc"])
    try:
        return {"eps": client.infer("denoiser_step", tensors(module, request["inputs"])).as_numpy("eps").tolist()}
    except InferenceServerException as error:
        return {"error": error.message()}


def main() -> None:
    address, verb, source, target = sys.argv[1:]
    requests = json.loads(Path(source).read_text())
    if verb == "draw":
        with ThreadPoolExecutor(len(requests)) as pool:
            answers = list(pool.map(lambda request: draw(address.split("/")[1], request), requests))
    else:
        answers = [step(address, request) for request in requests]
    Path(target).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
