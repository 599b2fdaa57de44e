"""Packages by rule: `ptq_export`, and the top-level rooms that are installed below it."""

from setuptools import find_packages, setup

ROOMS = ("calibrators", "engines", "benchmarks")

setup(
    packages=[
        *find_packages(include=["ptq_export", "ptq_export.*"]),
        *(f"ptq_export.{name}" for name in find_packages(include=[*ROOMS, *(f"{room}.*" for room in ROOMS)])),
    ]
)
