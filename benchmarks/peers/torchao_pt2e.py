"""torchao's PT2E static quantisation with the x86 Inductor quantiser: uint8 activations, int8 weights per channel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.pairs import Pairs

__all__ = ["TorchAo"]

CALIBRATION_BATCH = 8


@dataclass(frozen=True)
class TorchAo:
    """`prepare_pt2e`, a pass over the pairs, `convert_pt2e`.

    Only our int8 layers get its configuration, by name: its global one quantises the time-step's integer product, for
    which its own observers have no histogram.
    """

    def __call__(self, subject: Subject, target: Path) -> None:
        """Write the quantised program to `target` (.pt2), its batch open."""
        import torch
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        from ptq_export.benchmarks.peers.run_torch import network

        pairs = Pairs.of_feeds({name: torch.from_numpy(values) for name, values in subject.pairs().items()})
        module = network(subject)
        example = pairs.rows(slice(2))
        quantiser = x86.X86InductorQuantizer()
        names = {name for name, _ in module.named_modules()}
        for name in subject.layers:
            if name in names:
                quantiser.set_module_name_qconfig(name, x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(_exported(module, example).module(), quantiser)
        with torch.no_grad():
            for batch in pairs.batches(CALIBRATION_BATCH):
                batch.through(prepared)
        converted = convert_pt2e(prepared)
        torch.export.save(_exported(converted, example), target)


def _exported(module: Any, example: Pairs) -> Any:
    """The program of `module`, its batch open."""
    import torch

    arguments, given = (example.sample, example.timestep), dict(example.conditions)
    open_batch = {name: {0: torch.export.Dim.AUTO} for name in example.feeds}
    return torch.export.export(module, arguments, given, dynamic_shapes=open_batch)
