"""Engines: what runs an exported denoiser; one file per kind, and `load_engine` for a finished run."""

from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.load import load_engine
from ptq_export.engines.registry import KINDS, availability, build_engine, engine_class, load_files

__all__ = [
    "KINDS",
    "Engine",
    "EngineOptions",
    "availability",
    "build_engine",
    "engine_class",
    "load_engine",
    "load_files",
]
