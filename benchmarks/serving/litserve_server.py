"""A run's engine behind LitServe, as its users write it: `decode`, `predict` of a batch, `encode`."""

import base64
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ptq_export.engines.load import load_engine
from ptq_export.pipeline.commands.reopened import finished_manifest, read_schedule
from ptq_export.report.images import png_bytes
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

try:
    from litserve import LitAPI, LitServer
except ImportError:  # its packages lie in a folder of their own
    LitAPI, LitServer = object, None

__all__ = ["Sampler", "main"]

GATHER_S = 0.01


class Sampler(LitAPI):  # type: ignore[misc]
    """Pictures of one batch, those of equal numbers of steps together."""

    def __init__(self, run: str, **limits: Any) -> None:
        super().__init__(**limits)
        self.run = Path(run)

    def setup(self, device: str) -> None:
        """Load the engine, in the worker."""
        self.engine, self.schedule = load_engine(self.run), read_schedule(finished_manifest(self.run), self.run)

    def decode_request(self, request: dict[str, Any]) -> tuple[int, int]:
        """Steps and seed."""
        return request["steps"], request["seed"]

    def batch(self, inputs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """They are no tensors to stack."""
        return inputs

    def unbatch(self, output: list[torch.Tensor]) -> list[torch.Tensor]:
        """One per request already."""
        return output

    def predict(self, asked: list[tuple[int, int]]) -> list[torch.Tensor]:
        """A picture `[C, ...]` for each."""
        found: dict[int, torch.Tensor] = {}
        for steps in {each[0] for each in asked}:
            mine = [place for place, each in enumerate(asked) if each[0] == steps]
            noise = torch.cat([initial_noise((1, *self.engine.sample_shape), asked[place][1]) for place in mine])
            drawn = sample_loop(self.engine, make_scheduler(self.schedule, "ddim"), noise, steps)
            found |= dict(zip(mine, drawn, strict=True))
        return [found[place] for place in range(len(asked))]

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        """The same PNG in the same form."""
        return {"data": [{"b64_json": base64.b64encode(png_bytes(output.double().numpy())).decode()}]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve RUN in batches of ROWS, and tell the address on stderr."""
    run, rows = (arguments or sys.argv[1:])[:2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sampler = Sampler(run, max_batch_size=int(rows), batch_timeout=GATHER_S)
    server = LitServer(sampler, timeout=300, accelerator="cpu")
    print(f"http://127.0.0.1:{port}", file=sys.stderr, flush=True)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="error")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
