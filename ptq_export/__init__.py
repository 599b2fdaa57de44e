"""Ship a trained diffusion model as a real int8 engine; everything public is imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from ptq_export.checkpoints import load_checkpoint
    from ptq_export.options import Options
    from ptq_export.pipeline import export, load_engine, load_pipeline, quantise, run

__all__ = ["Options", "__version__", "export", "load_checkpoint", "load_engine", "load_pipeline", "quantise", "run"]

_HOMES = {
    "Options": "options",
    "export": "pipeline",
    "load_checkpoint": "checkpoints",
    "load_engine": "pipeline",
    "load_pipeline": "pipeline",
    "quantise": "pipeline",
    "run": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("ptq-export")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
