"""A program: change copies of a folder, each killed one change to the disk later; prints after how many it ends.

python killed.py FOLDER create FOLDER amend
"""

import os
import shutil
import sys
from pathlib import Path

import onnx_ir as ir

from ptq_export.graph import model_file
from ptq_export.run_folder import RunFolder

REQUEST = {"schema": 2, "options": {"seed": 0}, "versions": {}}


def create(folder: Path) -> None:
    RunFolder.create(folder, REQUEST).save_json("kept.json", {"schema": 2, "wanted_db": 1.0, "layers": []})


def amend(folder: Path) -> None:
    """As `bench` does: two files, the ledger, the manifest and its verdict."""
    run = RunFolder.create(folder, REQUEST)
    with run.amending() as manifest:
        run.save_json("kept.json", {"schema": 2, "wanted_db": 2.0, "layers": []})
        run.place("kept.png").write_bytes(b"new")
        run.keep("kept.png")
        manifest["command"] = "new"
        manifest["verdict"]["speedup"], manifest["verdict"]["baseline"] = 2.0, "ort-fp32"


def net(number: float) -> ir.Model:
    """y = x + w, `w` 400 equal numbers: for a file of 1000 bytes too large."""
    weights = ", ".join([str(number)] * 400)
    head = '<ir_version: 10, opset_import: ["": 18]> net (float[400] x) => (float[400] y)'
    return ir.from_onnx_text(f"{head} <float[400] w = {{{weights}}}> {{y = Add(x, w)}}")


def save(folder: Path) -> None:
    """A large model over another."""
    model_file.SELF_CONTAINED_BYTES = 1000
    model_file.save_model(net(2.0), folder / "net.onnx")


def kill_after(changes: int) -> None:
    """End this process, as a kill does, before its next change once it has made so many."""
    left = changes

    def counted(name: str) -> None:
        change = getattr(os, name)

        def do(*arguments: object, **keywords: object) -> object:
            nonlocal left
            if left == 0:
                os._exit(9)
            left -= 1
            return change(*arguments, **keywords)

        setattr(os, name, do)

    for name in ("replace", "rename", "mkdir", "rmdir", "unlink"):
        counted(name)


def kill_everywhere(folder: Path, what: str) -> int:
    """How many changes `what` makes; `FOLDER-0`, `FOLDER-1`, ... are what a kill before each of them leaves."""
    changes, ended = -1, False
    while not ended:
        changes += 1
        copy = folder.with_name(f"{folder.name}-{changes}")
        if folder.exists():
            shutil.copytree(folder, copy)
        child = os.fork()
        if child == 0:
            kill_after(changes)
            {"create": create, "amend": amend, "save": save}[what](copy)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return changes


if __name__ == "__main__":
    print(*(kill_everywhere(Path(folder), what) for folder, what in zip(sys.argv[1::2], sys.argv[2::2], strict=True)))
