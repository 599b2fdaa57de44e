"""What can be told to the builder on a Jetson."""

from dataclasses import dataclass

from ptq_export.engines.trt.options import TrtOptions
from ptq_export.jetpack import JetPack, find_jetpack

__all__ = ["JetsonOptions"]


@dataclass(frozen=True, kw_only=True)
class JetsonOptions(TrtOptions):
    """How the engine of a bundle is built on its device.

    Attributes:
        jetpack: The number of its release; the default one by default.

    Raises:
        InputError: no such release.
    """

    jetpack: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        find_jetpack(self.jetpack)

    @property
    def release(self) -> JetPack:
        """The JetPack that the graph is made for."""
        return find_jetpack(self.jetpack)
