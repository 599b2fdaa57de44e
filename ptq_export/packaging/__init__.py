"""From a finished run to what a service team takes over: `package` in one of `FORMATS`, and the check of it."""

from ptq_export.packaging.check import check_package, is_package
from ptq_export.packaging.registry import FORMATS, package

__all__ = ["FORMATS", "check_package", "is_package", "package"]
