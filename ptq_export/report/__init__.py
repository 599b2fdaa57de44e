"""The report of a run: one self-contained HTML page, and the same figures as rows for the terminal."""

from ptq_export.report.build import build_report

__all__ = ["build_report"]
