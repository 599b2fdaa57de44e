"""The peers by name: quantisers that need no data but the pairs, in the forms they offer, with no tuning of ours."""

from collections.abc import Iterator, Sequence
from fnmatch import filter as fnmatch_filter
from fnmatch import fnmatch

from ptq_export.benchmarks.peers.modelopt_onnx import ModelOpt
from ptq_export.benchmarks.peers.nncf_openvino import Nncf
from ptq_export.benchmarks.peers.ort_static import CALIBRATORS, OrtStatic
from ptq_export.benchmarks.peers.peer import Peer
from ptq_export.benchmarks.peers.runtimes import RUNTIMES
from ptq_export.benchmarks.peers.torchao_pt2e import TorchAo
from ptq_export.errors import InputError

__all__ = ["FLOATS", "PEERS", "chosen"]

FLOATS = {
    f"float, {RUNTIMES[name].label}": name
    for name in ("ort", "openvino", "openvino-bf16", "torch-eager", "torch-compile")
}
"""The FP32 network in each runtime, which by its name."""


def _ort(calibrator: str) -> Iterator[Peer]:
    """7-bit weights and the option of a session are its two ways around 16-bit sums; see `ort_static` and `run_ort`."""
    for form, reduce_range, runtime in (
        ("", False, "ort"),
        (", reduce_range", True, "ort"),
        (", x64quantprecision", False, "ort-u8u8"),
    ):
        yield Peer(
            f"ort {calibrator}{form}",
            "onnxruntime.quantization",
            OrtStatic(calibrator, reduce_range),
            "model.onnx",
            (runtime,),
            ("onnxruntime",),
            ("onnxruntime",),
            "onnxruntime",
            is_default=(calibrator, form) == ("minmax", ""),
        )


def _nncf(name: str, **settings: bool) -> Iterator[Peer]:
    packages = ("nncf", "openvino")
    for form, overflow_fix in (("", False), (", overflow_fix", True)):
        yield Peer(
            f"{name}{form}",
            "NNCF",
            Nncf(overflow_fix=overflow_fix, **settings),
            "model.xml",
            ("openvino", "openvino-bf16"),
            packages,
            packages,
            "nncf openvino",
            is_default=not settings and not overflow_fix,
        )


def _modelopt(method: str) -> Peer:
    packages = ("nvidia-modelopt", "onnx-graphsurgeon", "onnxruntime")
    modules = ("modelopt", "onnx_graphsurgeon", "onnxconverter_common", "onnxslim", "polygraphy", "lief", "cppimport")
    return Peer(
        f"modelopt {method}",
        "ModelOpt",
        ModelOpt(method),
        "model.onnx",
        ("openvino", "ort"),
        packages,
        modules,
        # Not its extra `onnx`: that one replaces onnx and onnxruntime by older releases.
        "nvidia-modelopt onnx-graphsurgeon onnxconverter-common onnxslim polygraphy lief cppimport",
        is_default=method == "entropy",
    )


_ENTRIES = (
    *(peer for calibrator in CALIBRATORS for peer in _ort(calibrator)),
    *_nncf("nncf"),
    *_nncf("nncf, full bias correction", fast_bias_correction=False),
    *_nncf("nncf mixed", mixed=True),
    *_nncf("nncf transformer", transformer=True),
    *_nncf("nncf hybrid", hybrid=True),
    _modelopt("entropy"),
    _modelopt("max"),
    Peer(
        "torchao x86 inductor",
        "torchao",
        TorchAo(),
        "model.pt2",
        ("torch-compile",),
        ("torchao", "torch"),
        ("torchao",),
        "torchao",
        is_default=True,
    ),
)
PEERS = {peer.name: peer for peer in _ENTRIES}


def chosen(patterns: Sequence[str]) -> list[str]:
    """The names in `PEERS` and `FLOATS` that match one of the patterns (`*` and `?` as in file names).

    Raises:
        InputError: a pattern matches none.
    """
    known = [*FLOATS, *PEERS]
    for pattern in patterns:
        if not fnmatch_filter(known, pattern):
            raise InputError(f"no peer is called {pattern!r}", f"known: {'; '.join(known)}")
    return [name for name in known if any(fnmatch(name, pattern) for pattern in patterns)]
