"""Engines: what runs an exported denoiser; one file per kind, and `load_engine` for a finished run."""

from ptq_export.engines.available import KINDS, availability, build_engine
from ptq_export.engines.base import Engine
from ptq_export.engines.load import load_engine

__all__ = ["KINDS", "Engine", "availability", "build_engine", "load_engine"]
