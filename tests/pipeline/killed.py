"""A program: change a run folder, killed after the Nth change to the disk; prints whether it came to the end.

    python killed.py FOLDER create|amend N
"""

import os
import sys
from pathlib import Path

from ptq_export.pipeline.folder import RunFolder
from ptq_export.schemas import MANIFEST, read_part

REQUEST = {"schema": 1, "options": {"seed": 0}, "versions": {}}


def create(folder: Path) -> None:
    RunFolder(folder, REQUEST).save_json("kept.json", {"schema": 1, "wanted_db": 1.0, "layers": []})


def amend(folder: Path) -> None:
    """As `bench` does: two files, the ledger, the manifest."""
    run, manifest = RunFolder(folder, REQUEST), read_part(folder, MANIFEST)
    with run.amending(manifest):
        run.save_json("kept.json", {"schema": 1, "wanted_db": 2.0, "layers": []})
        run.place("kept.png").write_bytes(b"new")
        run.keep("kept.png")
        manifest["command"] = "new"


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


if __name__ == "__main__":
    folder, what = Path(sys.argv[1]), {"create": create, "amend": amend}[sys.argv[2]]
    for changes in range(100):
        copy = folder.with_name(f"{folder.name}-{changes}")
        if folder.exists():
            os.system(f"cp -r {folder} {copy}")
        child = os.fork()
        if child == 0:
            kill_after(changes)
            what(copy)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            print(changes)
            break
