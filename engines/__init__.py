"""Engines: what runs an exported denoiser; one package per runtime, and `load_engine` for a finished run."""

from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.load import load_engine
from ptq_export.engines.registry import RUNTIMES, availability, build_engine, find_runtime, load_files

__all__ = [
    "RUNTIMES",
    "Engine",
    "EngineOptions",
    "availability",
    "build_engine",
    "find_runtime",
    "load_engine",
    "load_files",
]
