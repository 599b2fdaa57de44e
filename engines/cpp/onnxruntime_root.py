"""A folder for CMake's `-DONNXRUNTIME_ROOT=`, made of the ONNX Runtime that pip installed and of its C headers.

    python -m ptq_export.engines.cpp.onnxruntime_root FOLDER [HEADERS]

The wheel holds the shared library and no headers (https://github.com/microsoft/onnxruntime/issues/18840). HEADERS is a
folder that has them, `include` of a release archive, say; without it they are fetched from the Debian archive that apt
uses on this machine: a package of 85 kB of a later release. They may be older than the library: ONNX Runtime serves
every earlier version of its interface.
"""

import hashlib
import io
import lzma
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

from ptq_export.errors import EnvironmentMissing, InputError, PtqExportError

__all__ = ["make_root"]

HEADER = "onnxruntime_c_api.h"
PACKAGE = "pool/main/o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb"
SHA256 = "14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08"
ATTEMPTS, TIMEOUT_S = 3, 30
MOST_BYTES = 1 << 20


def make_root(folder: Path, headers: Path | None = None) -> Path:
    """`folder` with `lib` and `include`: links to the library, copies of the headers.

    Raises:
        EnvironmentMissing: no wheel of ONNX Runtime is installed, or its headers cannot be fetched from a Debian
            archive.
        InputError: `headers` has none.
    """
    library = _library()
    for name in ("lib", "include"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in (library.name, "libonnxruntime.so.1", "libonnxruntime.so"):
        link = folder / "lib" / name
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    if headers is not None:
        found = next(headers.rglob(HEADER), None)
        if found is None:
            raise InputError(f"{headers} has no {HEADER}", "give the folder `include` of a release archive")
        shutil.copytree(found.parent, folder / "include", dirs_exist_ok=True)
    elif not (folder / "include" / HEADER).exists():
        for name, content in _headers(_fetched()).items():
            (folder / "include" / name).write_bytes(content)
    return folder


def _library() -> Path:
    spec = find_spec("onnxruntime")
    root = None if spec is None or spec.origin is None else Path(spec.origin).parent
    found = [] if root is None else sorted((root / "capi").glob("libonnxruntime.so.*"))
    if not found:
        raise EnvironmentMissing("no wheel of ONNX Runtime with its library is installed", "pip install onnxruntime")
    return found[-1]


def _fetched() -> bytes:
    """Debian's package, which has the digest that this file says."""
    failure: Exception = OSError("apt knows no Debian archive here")
    archives = _archives()
    for attempt in range(ATTEMPTS if archives else 0):
        time.sleep(2 * attempt)
        for archive in archives:
            try:
                with urllib.request.urlopen(archive + PACKAGE, timeout=TIMEOUT_S) as answer:
                    content: bytes = answer.read(MOST_BYTES)
                if hashlib.sha256(content).hexdigest() == SHA256:
                    return content
                failure = OSError(f"{archive}{PACKAGE} is another file than it was")
            except OSError as error:
                failure = error
    remedy = "give a folder that has them as the second argument"
    raise EnvironmentMissing(f"ONNX Runtime's headers cannot be fetched: {failure}", remedy) from failure


def _archives() -> list[str]:
    """Where apt finds Debian's packages, if this system has apt: addresses that end in a slash."""
    apt = shutil.which("apt-get")
    if apt is None:
        return []
    asked = [apt, "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return sorted({line for line in told.split() if line.endswith("/debian/")})


def _headers(package: bytes) -> dict[str, bytes]:
    """The headers in a Debian package: an `ar` archive whose member `data.tar.xz` holds the files."""
    at, found = 8, dict[str, bytes]()
    while at < len(package):
        name, size = package[at : at + 16].decode("ascii").strip(), int(package[at + 48 : at + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(lzma.decompress(package[at + 60 : at + 60 + size]))) as files:
                headers = [it for it in files if it.isfile() and Path(it.name).match("include/onnxruntime/*.h")]
                found |= {Path(it.name).name: files.extractfile(it).read() for it in headers}  # type: ignore[union-attr]
        at += 60 + size + size % 2
    return found


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(make_root(Path(arguments[0]), Path(arguments[1]) if len(arguments) == 2 else None))
    except PtqExportError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
