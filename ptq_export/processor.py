"""The processor: its name, and the instruction sets that decide which kernels an engine picks."""

import platform
from collections.abc import Collection
from functools import cache
from pathlib import Path

__all__ = ["adds_in_16_bits", "has_vnni", "instruction_sets", "processor_name"]

# In the order in which they appeared. Float kernels: up to avx512*, asimd, sve; the rest decides the int8 kernels.
RELEVANT = (
    *("sse4_1", "avx", "fma", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    *("avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
VNNI = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8"})
PROCESSORS = Path("/proc/cpuinfo")


@cache
def instruction_sets() -> tuple[str, ...]:
    """Those of this processor that matter to an engine, in Linux' spelling."""
    flags = _flags()
    return tuple(name for name in RELEVANT if name in flags)


def has_vnni(isa: Collection[str]) -> bool:
    """Whether these instruction sets add products of bytes in 32 bits at once (vpdpbusd)."""
    return not VNNI.isdisjoint(isa)


def adds_in_16_bits(isa: Collection[str]) -> bool:
    """Whether int8 kernels for these add two uint8 x int8 products in 16 bits, with saturation (vpmaddubsw): on x86
    without VNNI."""
    return "sse4_1" in isa and not has_vnni(isa)


@cache
def processor_name() -> str:
    """The maker's own name of this processor."""
    import cpuinfo  # starts other programs and takes more than a second

    name: str = cpuinfo.get_cpu_info().get("brand_raw") or platform.processor() or "unknown"
    return name


def _flags() -> frozenset[str]:
    # The kernel's list costs nothing; py-cpuinfo is for the other systems.
    if PROCESSORS.exists():
        for line in PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return frozenset(value.split())
    import cpuinfo

    return frozenset(cpuinfo.get_cpu_info().get("flags", ()))
