"""The installed library, as another project finds and links it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cpp_tools import Call, compiled, configured, tool

PROJECT = """
cmake_minimum_required(VERSION 3.16)
project(service LANGUAGES CXX)
find_package(ptq_export 0.1 REQUIRED)
add_executable(service service.cpp)
target_link_libraries(service PRIVATE ptq_export::ptq_export)
"""
SERVICE = """
#include <iostream>
#include <ptq_export/denoiser.h>
#include <ptq_export/error.h>

int main(int, char** words) {
  try {
    auto denoiser = ptq_export::open_run(words[1]);
    ptq_export::Shape shape = denoiser->signature().sample_shape();
    shape.insert(shape.begin(), 2);
    ptq_export::Tensor const x(shape, 0.5F);
    std::vector<std::int64_t> const t{500};
    std::cout << ptq_export::shown(denoiser->run({{"sample", x}, {"timestep", t}}).shape()) << '\\n';
    return 0;
  } catch (ptq_export::Error const& error) {
    std::cerr << error.what() << '\\n';
    return error.exit_code();
  }
}
"""


@pytest.fixture(scope="module")
def prefix(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefix")
    command = [str(tool("cmake")), "--install", str(build), "--prefix", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_another_project_finds_it_by_its_package(
    prefix: Path, onnxruntime_root: Path, served_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "CMakeLists.txt").write_text(PROJECT, encoding="utf-8")
    (tmp_path / "service.cpp").write_text(SERVICE, encoding="utf-8")
    build = configured(onnxruntime_root, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}", source=tmp_path)
    compiled(build)
    done = subprocess.run([str(build / "service"), str(served_run)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[2, 1, 8, 8]\n"), done.stderr
    done = subprocess.run([str(build / "service"), str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, "is not a finished run" in done.stderr) == (2, True)


def test_headers_and_the_program_are_installed(prefix: Path) -> None:
    assert (prefix / "bin" / "sample_images").is_file()
    headers = {path.name for path in (prefix / "include" / "ptq_export").iterdir()}
    assert {"denoiser.h", "error.h", "sampler.h", "sampling.h", "schedule.h", "tensor.h"} <= headers


def test_onnx_runtimes_own_package_is_found(onnxruntime_root: Path, tmp_path: Path) -> None:
    """As in vcpkg, conan and the release archive: `find_package(onnxruntime)`, with its imported target."""
    package = tmp_path / "package"
    shutil.copytree(onnxruntime_root, package, symlinks=True)
    (package / "lib" / "cmake" / "onnxruntime").mkdir(parents=True)
    (package / "lib" / "cmake" / "onnxruntime" / "onnxruntimeConfig.cmake").write_text(
        "add_library(onnxruntime::onnxruntime SHARED IMPORTED)\n"
        "get_filename_component(root ${CMAKE_CURRENT_LIST_DIR}/../../.. ABSOLUTE)\n"
        "set_target_properties(onnxruntime::onnxruntime PROPERTIES IMPORTED_LOCATION ${root}/lib/libonnxruntime.so\n"
        "  INTERFACE_INCLUDE_DIRECTORIES ${root}/include)\n",
        encoding="utf-8",
    )
    command = [str(tool("cmake")), "-S", str(Path(__file__).parents[2] / "engines" / "cpp"), "-B", str(tmp_path / "b")]
    done = subprocess.run([*command, f"-DCMAKE_PREFIX_PATH={package}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_onnx_runtime_is_told(tmp_path: Path, call: Call) -> None:
    command = [str(tool("cmake")), "-S", str(Path(__file__).parents[2] / "engines" / "cpp"), "-B", str(tmp_path / "b")]
    done = subprocess.run([*command, f"-DONNXRUNTIME_ROOT={tmp_path}"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "has no include/onnxruntime_c_api.h" in " ".join(done.stderr.split())
