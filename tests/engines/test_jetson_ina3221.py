"""The sensors' files in sysfs, as JetPack 5 to 7 (hwmon) and JetPack 4 (iio) lay them out; who reads them when."""

import time
from pathlib import Path

import pytest
from on_device import program

ina3221, power = program("ina3221"), program("power")
HWMON = "sys/bus/i2c/drivers/ina3221"
IIO = "sys/bus/i2c/drivers/ina3221x"


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def hwmon(place: str, *channels: tuple[str, int, int]) -> dict[str, object]:
    """A sensor whose channels have a name, millivolts and milliamperes; the fourth label is of their shunts' sum."""
    files: dict[str, object] = {f"{HWMON}/{place}/in7_label": "sum of shunt voltages"}
    files[f"{HWMON}/{place}/in7_input"] = 100
    for channel, (name, millivolts, milliamperes) in enumerate(channels, 1):
        files[f"{HWMON}/{place}/in{channel}_label"] = name
        files[f"{HWMON}/{place}/in{channel}_input"] = millivolts
        files[f"{HWMON}/{place}/curr{channel}_input"] = milliamperes
        files[f"{HWMON}/{place}/in{channel + 3}_input"] = 40
    return files


def iio(place: str, *channels: tuple[str, int]) -> dict[str, object]:
    files: dict[str, object] = {}
    for channel, (name, milliwatts) in enumerate(channels):
        files[f"{IIO}/{place}/rail_name_{channel}"] = name
        files[f"{IIO}/{place}/in_power{channel}_input"] = milliwatts
        files[f"{IIO}/{place}/in_voltage{channel}_input"] = 19000
        files[f"{IIO}/{place}/in_current{channel}_input"] = 100
    return files


AGX_ORIN = hwmon(
    "1-0040/hwmon/hwmon3", ("VDD_GPU_SOC", 19000, 652), ("VDD_CPU_CV", 19016, 126), ("VIN_SYS_5V0", 4944, 916)
) | hwmon("1-0041/hwmon/hwmon4", ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4952, 222), ("NC", 0, 0))
ORIN_NANO = hwmon("1-0040/hwmon/hwmon1", ("VDD_IN", 4920, 911), ("VDD_CPU_GPU_CV", 4920, 106), ("VDD_SOC", 4920, 293))
AGX_XAVIER = iio("1-0040/iio:device0", ("GPU", 9100), ("CPU", 1500), ("SOC", 2600)) | iio(
    "1-0041/iio:device1", ("CV", 0), ("VDDRQ", 1200), ("SYS5V", 3000)
)
THOR = hwmon(
    "2-0040/hwmon/hwmon4", ("VDD_GPU", 12000, 200), ("VDD_CPU_SOC_MSS", 12000, 325), ("VIN_SYS_5V0", 5000, 1300)
) | {
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon5/power1_input": 23_000_000,
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon5/in1_input": 12000,
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon5/curr1_input": 1917,
}
XAVIER_NX = iio("7-0040/iio_device/iio:device0", ("VDD_IN", 7310), ("VDD_CPU_GPU_CV", 3105), ("VDD_SOC", 1390))


@pytest.mark.parametrize(
    ("files", "rails", "module"),
    [
        (
            AGX_ORIN,
            {"VDD_GPU_SOC": 12388, "VDD_CPU_CV": 2396, "VIN_SYS_5V0": 4528, "VDDQ_VDD2_1V8AO": 1099},
            (19312, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
        ),
        (ORIN_NANO, {"VDD_IN": 4482, "VDD_CPU_GPU_CV": 521, "VDD_SOC": 1441}, (4482, ("VDD_IN",))),
        (
            AGX_XAVIER,
            {"GPU": 9100, "CPU": 1500, "SOC": 2600, "CV": 0, "VDDRQ": 1200, "SYS5V": 3000},
            (17400, ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")),
        ),
        (XAVIER_NX, {"VDD_IN": 7310, "VDD_CPU_GPU_CV": 3105, "VDD_SOC": 1390}, (7310, ("VDD_IN",))),
        (
            THOR,
            {"VDD_GPU": 2400, "VDD_CPU_SOC_MSS": 3900, "VIN_SYS_5V0": 6500, "VIN": 23000},
            (23000, ("VIN",)),
        ),
    ],
    ids=["AGX Orin", "Orin Nano", "AGX Xavier, JetPack 4", "Xavier NX, JetPack 4", "Thor"],
)
def test_each_board_s_rails_in_milliwatts_and_the_module(
    files: dict[str, object], rails: dict[str, int], module: tuple[int, tuple[str, ...]], tmp_path: Path
) -> None:
    found = {name: read() for name, read in ina3221.find_rails(write(tmp_path, files)).items()}
    assert found == rails and power.module_power_mw(found) == module


def test_a_channel_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, ORIN_NANO)
    (tmp_path / HWMON / "1-0040/hwmon/hwmon1/curr3_input").unlink()
    assert set(ina3221.find_rails(tmp_path)) == {"VDD_IN", "VDD_CPU_GPU_CV"}


def test_of_two_inputs_neither_is_taken_for_the_whole(tmp_path: Path) -> None:
    write(tmp_path, THOR | {"sys/bus/i2c/drivers/ina238/3-0045/hwmon/hwmon6/power1_input": 1_000_000})
    assert "VIN" not in ina3221.find_rails(tmp_path)


def test_a_machine_without_the_sensor_has_no_rails(tmp_path: Path) -> None:
    assert ina3221.find_rails(tmp_path) == {}


def test_the_monitor_reads_again_and_again_what_the_sensor_says_then(tmp_path: Path) -> None:
    monitor = ina3221.Monitor(10, write(tmp_path, ORIN_NANO))
    assert monitor.start()["VDD_IN"] == 4482
    time.sleep(0.1)
    (tmp_path / HWMON / "1-0040/hwmon/hwmon1/curr1_input").write_text("2000\n")
    begin = time.monotonic()
    time.sleep(0.2)
    end = time.monotonic()
    monitor.stop()
    later = monitor.between(begin + 0.05, end)
    assert 3 <= len(later) <= 20 and all(rails["VDD_IN"] == 9840 for rails in later)
    assert len(monitor.between(0.0, end)) > len(later)


def tegrastats(folder: Path, line: str) -> str:
    script = folder / "tegrastats"
    script.write_text(f"#!/bin/sh\nwhile true; do echo '{line}'; sleep 0.02; done\n")
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("line", "name"),
    [("VDD_IN 5000mW/4000mW", "tegrastats"), ("RAM 1/2MB", "INA sensors in sysfs"), (None, "INA sensors in sysfs")],
    ids=["tegrastats", "tegrastats without rails", "no tegrastats"],
)
def test_the_sensors_are_read_where_tegrastats_tells_nothing(line: str | None, name: str, tmp_path: Path) -> None:
    program_name = "absent-tegrastats" if line is None else tegrastats(tmp_path, line)
    monitor, found = power.find_monitor(20, program_name, write(tmp_path, ORIN_NANO))
    begin = time.monotonic()
    time.sleep(0.2)
    monitor.stop()
    assert found == name and monitor.between(begin, time.monotonic())[0]["VDD_IN"] in (5000, 4482)


def test_without_either_it_says_what_was_seen(tmp_path: Path) -> None:
    assert power.find_monitor(20, "absent", tmp_path) == (
        None,
        "energy was not measured: no rail in tegrastats or sysfs",
    )
    write(tmp_path, hwmon("1-0040/hwmon/hwmon1", ("VDD_NEW", 5000, 100)))
    assert power.find_monitor(20, "absent", tmp_path)[1].endswith("no known set among the rails VDD_NEW")
