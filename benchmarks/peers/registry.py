"""The peers by name: quantisers that need no data set but the pairs, with their own defaults and no tuning of ours."""

from collections.abc import Sequence
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


def _ort(calibrator: str, reduce_range: bool) -> Peer:
    name = f"ort {calibrator}, reduce_range" if reduce_range else f"ort {calibrator}"
    quantise = OrtStatic(calibrator, reduce_range)
    return Peer(name, quantise, "model.onnx", ("ort",), ("onnxruntime",), ("onnxruntime",), "onnxruntime")


def _nncf(name: str, quantise: Nncf) -> Peer:
    runtimes = ("openvino", "openvino-bf16")
    return Peer(name, quantise, "model.xml", runtimes, ("nncf", "openvino"), ("nncf", "openvino"), "nncf openvino")


def _modelopt(method: str) -> Peer:
    packages = ("nvidia-modelopt", "onnx-graphsurgeon", "onnxruntime")
    modules = ("modelopt", "onnx_graphsurgeon", "onnxconverter_common", "onnxslim", "polygraphy", "lief", "cppimport")
    # Not its extra `onnx`: that one replaces onnx and onnxruntime by older releases.
    install = "nvidia-modelopt onnx-graphsurgeon onnxconverter-common onnxslim polygraphy lief cppimport"
    return Peer(f"modelopt {method}", ModelOpt(method), "model.onnx", ("openvino", "ort"), packages, modules, install)


_ENTRIES = (
    *(_ort(calibrator, reduce_range) for calibrator in CALIBRATORS for reduce_range in (False, True)),
    _nncf("nncf", Nncf()),
    _nncf("nncf, full bias correction", Nncf(fast_bias_correction=False)),
    _nncf("nncf mixed", Nncf(mixed=True)),
    _modelopt("entropy"),
    _modelopt("max"),
    Peer(
        "torchao x86 inductor",
        TorchAo(),
        "model.pt2",
        ("torch-compile",),
        ("torchao", "torch"),
        ("torchao",),
        "torchao",
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
