"""`tegrastats` of each board: the rails of a line, the power of the module, and the program that prints them."""

import time
from pathlib import Path

import pytest
from on_device import program

tegrastats, power = program("tegrastats"), program("power")

XAVIER_NX_JETPACK_5 = (
    "11-24-2026 10:00:01 RAM 2210/6851MB (lfb 4x4MB) SWAP 12/3425MB (cached 0MB) CPU [5%@1190,2%@1190,off,off,off,off] "
    "EMC_FREQ 2%@1600 GR3D_FREQ 61%@[803] VIC_FREQ 115 APE 150 AUX@41C CPU@43.5C AO@41C GPU@43C PMIC@50C "
    "VDD_IN 7310mW/6120mW VDD_CPU_GPU_CV 3105mW/2002mW VDD_SOC 1390mW/1301mW"
)
AGX_XAVIER_JETPACK_5 = (
    "RAM 3100/15000MB (lfb 900x4MB) SWAP 0/7500MB (cached 0MB) CPU [1%@1190,0%@1190] EMC_FREQ 5%@2133 "
    "GR3D_FREQ 93%@1377 APE 150 MTS fg 0% bg 4% AO@40C GPU@44.5C Tdiode@44.25C PMIC@50C "
    "GPU 9100mW/8000mW CPU 1500mW/1400mW SOC 2600mW/2500mW CV 0mW/0mW VDDRQ 1200mW/1100mW SYS5V 3000mW/2900mW"
)
AGX_XAVIER_JETPACK_4 = AGX_XAVIER_JETPACK_5.replace("mW", "")
NANO = (
    "RAM 1500/3964MB (lfb 20x4MB) IRAM 0/252kB(lfb 252kB) CPU [20%@1479,off,off,off] EMC_FREQ 4%@1600 "
    "GR3D_FREQ 99%@921 APE 25 PLL@35C CPU@38C iwlwifi@39C GPU@36.5C "
    "POM_5V_IN 5120/4800 POM_5V_GPU 1900/1700 POM_5V_CPU 610/640"
)
AGX_ORIN_JETPACK_6 = (
    "11-24-2026 10:00:01 RAM 5200/62800MB (lfb 8x4MB) SWAP 0/31400MB (cached 0MB) CPU [0%@729,0%@729,off,off] "
    "EMC_FREQ 1%@2133 GR3D_FREQ 97%@[1300,1300] NVENC off NVDEC off NVJPG off VIC off OFA off NVDLA0 off NVDLA1 off "
    "PVA0_FREQ off APE 174 cpu@48.9C tboard@37.5C soc2@44.7C tdiode@38.2C soc0@45C gpu@44.1C tj@48.9C "
    "VDD_GPU_SOC 12400mW/9000mW VDD_CPU_CV 2390mW/2200mW VIN_SYS_5V0 4530mW/4400mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 1100mW/1000mW NC 0mW/0mW"
)
ORIN_NANO_JETPACK_6 = (
    "11-24-2026 10:00:01 RAM 2467/7471MB (lfb 2x4MB) SWAP 0/994MB (cached 0MB) CPU [2%@729,1%@729,0%@729] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@0 NVDEC off NVJPG off VIC off OFA off APE 200 cpu@47.2C soc2@46C gpu@46.9C "
    "VDD_IN 4480mW/4480mW VDD_CPU_GPU_CV 520mW/520mW VDD_SOC 1440mW/1440mW"
)
AGX_ORIN_JETPACK_7 = (
    "11-24-2026 10:00:01 RAM 20600/62800MB (lfb 1x2MB) CPU [23%@2201,10%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 12%@[1300,1300] NVENC0 off NVDLA0 off APE 174 cpu@52.9C/53.1C gpu@47.6C/47.9C "
    "VDD_GPU_SOC 5100mW/5000mW/6000mW VDD_CPU_CV 3200mW/3100mW/3300mW VIN_SYS_5V0 5500mW/5400mW/5600mW"
)
THOR_JETPACK_7 = (
    "RAM 4700/125700MB (lfb 1x512kB) EMC_FREQ 2%@1866 GR3D_FREQ @[1000,1000,1000] APE 150 "
    "VDD_GPU -390mW/2400mW/9000mW VDD_CPU_SOC_MSS 3900mW/3900mW/5000mW VIN_SYS_5V0 6500mW/6500mW/6600mW "
    "VIN 23000mW/22000mW/30000mW"
)


@pytest.mark.parametrize(
    ("line", "rails", "module_mw"),
    [
        (XAVIER_NX_JETPACK_5, {"VDD_IN": 7310, "VDD_CPU_GPU_CV": 3105, "VDD_SOC": 1390}, 7310),
        (
            AGX_XAVIER_JETPACK_5,
            {"GPU": 9100, "CPU": 1500, "SOC": 2600, "CV": 0, "VDDRQ": 1200, "SYS5V": 3000},
            17400,
        ),
        (
            AGX_XAVIER_JETPACK_4,
            {"GPU": 9100, "CPU": 1500, "SOC": 2600, "CV": 0, "VDDRQ": 1200, "SYS5V": 3000},
            17400,
        ),
        (NANO, {"POM_5V_IN": 5120, "POM_5V_GPU": 1900, "POM_5V_CPU": 610}, 5120),
        (
            AGX_ORIN_JETPACK_6,
            {"VDD_GPU_SOC": 12400, "VDD_CPU_CV": 2390, "VIN_SYS_5V0": 4530, "VDDQ_VDD2_1V8AO": 1100},
            19320,
        ),
        (ORIN_NANO_JETPACK_6, {"VDD_IN": 4480, "VDD_CPU_GPU_CV": 520, "VDD_SOC": 1440}, 4480),
        (AGX_ORIN_JETPACK_7, {"VDD_GPU_SOC": 5100, "VDD_CPU_CV": 3200, "VIN_SYS_5V0": 5500}, 13800),
        (
            THOR_JETPACK_7,
            {"VDD_GPU": -390, "VDD_CPU_SOC_MSS": 3900, "VIN_SYS_5V0": 6500, "VIN": 23000},
            23000,
        ),
    ],
    ids=["Xavier NX", "AGX Xavier", "AGX Xavier, JetPack 4", "Nano", "AGX Orin", "Orin Nano", "AGX Orin 7", "Thor"],
)
def test_the_present_power_of_each_board(line: str, rails: dict[str, int], module_mw: int) -> None:
    assert tegrastats.rails_mw(line + "\n") == rails
    assert power.module_power_mw(rails)[0] == module_mw


@pytest.mark.parametrize("line", ["", "RAM 100/200MB (lfb 1x4MB) SWAP 0/1MB", "cpu@52.9C/53.1C", "VDD_SOC 5mW/6mW"])
def test_no_power_is_made_up_where_the_rails_are_not_known(line: str) -> None:
    assert power.module_power_mw(tegrastats.rails_mw(line)) is None


def test_the_monitor_keeps_what_came_in_time_and_ends_the_program(tmp_path: Path) -> None:
    script = tmp_path / "tegrastats"
    script.write_text(f"#!/bin/sh\nwhile true; do echo 'asked for $2 {ORIN_NANO_JETPACK_6}'; sleep 0.02; done\n")
    script.chmod(0o755)
    monitor = tegrastats.Monitor(20, str(script))
    assert monitor.start()["VDD_IN"] == 4480
    begin = time.monotonic()
    time.sleep(0.3)
    end = time.monotonic()
    time.sleep(0.1)
    monitor.stop()
    samples = monitor.between(begin, end)
    assert 3 <= len(samples) <= 20 and all(rails["VDD_IN"] == 4480 for rails in samples)
    assert len(monitor.between(begin, time.monotonic())) > len(samples)


def test_a_program_that_ends_at_once_leaves_no_sample(tmp_path: Path) -> None:
    script = tmp_path / "tegrastats"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monitor = tegrastats.Monitor(20, str(script))
    assert monitor.start() == {}
    monitor.stop()
    assert monitor.between(0.0, time.monotonic()) == []


def test_without_the_program_the_monitor_says_so() -> None:
    with pytest.raises(OSError, match="absent-tegrastats"):
        tegrastats.Monitor(100, "absent-tegrastats").start()
