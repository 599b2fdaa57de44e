"""The models of a package for Triton, called without Triton as the server would call them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptq_export.command_options import Packaging
from ptq_export.engines import load_engine
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.text_to_image import open_part
from ptq_export.packaging import package
from ptq_export.packaging.triton.drawing import Drawer, Frame
from ptq_export.packaging.triton.served import Models

__all__ = ["Arrays", "Server", "unasked"]

Arrays = dict[str, NDArray[Any]]


def ignore(_: Frame | None) -> None:
    pass


def unasked(_: Any) -> Arrays:
    raise AssertionError("nobody asks this model")


class Server:
    """The models of a repository: a step takes values of the prompt model, and numbers as `[N, 1]`."""

    def __init__(self, run: Path) -> None:
        self.out = Path(package(run, Packaging(run.parent / "repository", "triton", "python"))["package"])
        self.engine = load_engine(self.out / "denoiser_step" / "1", options=EngineOptions(threads=1))
        self.session, self.engine.prompt = self.engine.prompt, None
        text, decoder = (self.graph(name) for name in ("text_encoder", "decoder"))
        self.drawer = Drawer(self.out / "sampler" / "1", Models(self.step, self.prompt, text, decoder))
        self.steps = self.prompts = 0
        self.asked: list[str] = []

    def graph(self, model: str) -> Callable[[Any], Arrays]:
        path = self.out / model / "1" / f"{model}.onnx"
        if not path.is_file():
            return unasked
        session = open_part(path)
        names = [it.name for it in session.get_outputs()]

        def compute(feeds: Any) -> Arrays:
            self.asked.append(model)
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))

        return compute

    def step(self, feeds: Any) -> Arrays:
        self.steps += 1
        numbers = [it.name for it in self.engine.signature.step_inputs if not it.shape]
        return {"eps": self.engine.run({name: it[:, 0] if name in numbers else it for name, it in feeds.items()})}

    def prompt(self, feeds: Any) -> Arrays:
        self.prompts += 1
        assert self.session is not None
        return self.session.compute(feeds)

    def draw(self, given: Arrays, after: Callable[..., None] = ignore, **told: str) -> Frame:
        wish = self.drawer.wish({name: np.asarray(value) for name, value in given.items()}, told)
        return self.drawer.draw(wish, after)
