"""A real tritonserver for the tests, from an environment that `tritonserver.sh` has made."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "PTQ_EXPORT_TRITON"
CLIENT = Path(__file__).with_name("triton_client.py")
READY_S = 300


def missing() -> str:
    """Why no server can be started here; empty where one can."""
    if not os.environ.get(VARIABLE):
        return f"{VARIABLE} does not name an environment with tritonserver: tests/packaging/tritonserver.sh makes one"
    home = Path(os.environ[VARIABLE])
    if not list(home.glob("lib/python3.*/site-packages/pytriton/tritonserver/bin/tritonserver")):
        return f"{home} holds no tritonserver"
    library = Path(sysconfig.get_config_var("LIBDIR"), f"libpython3.{sys.version_info.minor}.so.1.0")
    return "" if library.exists() else f"the stub of Triton's Python backend needs {library}"


@dataclass
class Server:
    """A server that is ready; `address` is HTTP's and gRPC's host and port."""

    address: str
    folder: Path

    def ask(self, verb: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The client's answers; see `triton_client.py`."""
        source, target = self.folder / "requests.json", self.folder / "answers.json"
        source.write_text(json.dumps(requests))
        command = [Path(os.environ[VARIABLE], "bin", "python"), CLIENT, self.address, verb, source, target]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        answers: list[dict[str, Any]] = json.loads(target.read_text())
        return answers

    def post(self, path: str, body: dict[str, Any] | bytes) -> str:
        """What HTTP answers, be it an error."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address.split('/')[0]}/{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def counts(self, model: str = "denoiser_step") -> tuple[int, int]:
        """Rows that a model has computed since it was loaded, and calls in which it did."""
        with urllib.request.urlopen(f"http://{self.address.split('/')[0]}/v2/models/{model}/stats") as answer:
            [found] = json.load(answer)["model_stats"]
        return int(found["inference_count"]), int(found["execution_count"])


@contextmanager
def running(repository: Path, folder: Path) -> Iterator[Server]:
    """A server of a repository, ready; the Python of its models is the one that runs the tests."""
    [program] = Path(os.environ[VARIABLE]).glob("lib/python3.*/site-packages/pytriton/tritonserver/bin/tritonserver")
    home = program.parents[1]
    backends = folder / "backends"
    shutil.copytree(home / "backends" / "python", backends / "python")
    stub = home / "python_backend_stubs" / f"3.{sys.version_info.minor}" / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    libraries = (sysconfig.get_config_var("LIBDIR"), home.parents[1] / "nvidia_pytriton.libs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the stub embeds the first python3 on it
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)), "PATH": path}
    ports = [_free_port(), _free_port()]
    command = [program, "--model-repository", repository, "--backend-directory", backends, "--allow-metrics", "false"]
    command += ["--http-port", str(ports[0]), "--grpc-port", str(ports[1]), "--exit-timeout-secs", "20"]
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        _wait(process, ports[0], log)
        yield Server(f"localhost:{ports[0]}/localhost:{ports[1]}", folder)
    finally:
        process.terminate()
        try:
            process.wait(40)
        finally:
            process.kill()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/v2/health/ready"):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"tritonserver is not ready: {log.read_text(errors='replace')[-4000:]}")
