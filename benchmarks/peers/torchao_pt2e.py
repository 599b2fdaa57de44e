"""torchao's PT2E static quantisation with the x86 Inductor quantiser: uint8 activations, int8 weights per channel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq_export.benchmarks.peers.subject import Subject

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

        pairs = [torch.from_numpy(values) for values in subject.pairs().values()]
        module = network(subject)
        example = tuple(values[:2] for values in pairs)
        quantiser = x86.X86InductorQuantizer()
        names = {name for name, _ in module.named_modules()}
        for name in subject.layers:
            if name in names:
                quantiser.set_module_name_qconfig(name, x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(_exported(module, example), quantiser)
        with torch.no_grad():
            for rows in zip(*(torch.split(values, CALIBRATION_BATCH) for values in pairs), strict=True):
                prepared(*rows)
        converted = convert_pt2e(prepared)
        torch.export.save(torch.export.export(converted, example, dynamic_shapes=_open_batch(example)), target)


def _exported(module: Any, example: tuple[Any, ...]) -> Any:
    import torch

    return torch.export.export(module, example, dynamic_shapes=_open_batch(example)).module()


def _open_batch(example: tuple[Any, ...]) -> tuple[dict[int, Any], ...]:
    import torch

    return tuple({0: torch.export.Dim.AUTO} for _ in example)
