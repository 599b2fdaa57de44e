"""Every peer's model, made once: a folder per peer, with a sidecar that says what it was made from and how fast."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from ptq_export.artifacts import digest, read_json, write_json
from ptq_export.benchmarks.peers.peer import Entry, Peer, slug
from ptq_export.benchmarks.peers.runtimes import RUNTIMES
from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.benchmarks.peers.worker import Worker
from ptq_export.errors import InputError
from ptq_export.scratch import scratch_folder

__all__ = ["Workshop", "quantise"]

SIDECAR = "made.json"


class Workshop:
    """A folder for the models of one subject. What runtimes keep of opening them goes to `cache` and lasts as long as
    the workshop: Inductor does not survive a file that it was interrupted in.
    """

    def __init__(self, folder: Path, subject: Subject) -> None:
        self.folder = folder
        self._subject = subject
        self._temporary = scratch_folder()

    @property
    def cache(self) -> Path:
        return Path(self._temporary.name)

    def log(self, name: str) -> Path:
        """Where the words of a peer or a runtime go."""
        return self.folder / "logs" / f"{slug(name)}.log"

    def has(self, peer: Peer) -> bool:
        """Whether the peer's model stands, made from the same inputs by the same versions."""
        return _identity_in(self.folder / slug(peer.name)) == self._identity(peer)

    def entries(self, peer: Peer) -> list[Entry]:
        """The peer's rows, one per runtime that is here; its model is made unless it stands from the same inputs.

        Raises:
            PeerFailed: it could not make one.
        """
        home = self.folder / slug(peer.name)
        if not self.has(peer):
            self._make(peer, home)
        made = read_json(home / SIDECAR)
        file = home / "model" / peer.file
        entry = Entry(peer.name, peer.runtimes[0], file, made["seconds"], made["size_bytes"], tool=peer.tool)
        return [
            replace(entry, name=_row(peer, name), runtime=name, is_default=peer.is_default and name == peer.runtimes[0])
            for name in peer.runtimes
            if not RUNTIMES[name].missing
        ]

    def _make(self, peer: Peer, home: Path) -> None:
        shutil.rmtree(home, ignore_errors=True)
        (home / "model").mkdir(parents=True)
        target = home / "model" / peer.file
        with Worker(self.log(peer.name)) as worker:
            seconds = worker.ask(quantise, peer.quantise, peer.modules, self._subject, target)
        size_bytes = sum(path.stat().st_size for path in target.parent.iterdir())
        made = {"identity": self._identity(peer), "peer": peer.name, "versions": peer.versions}
        write_json(home / SIDECAR, made | {"seconds": round(seconds, 2), "size_bytes": size_bytes})

    def _identity(self, peer: Peer) -> str:
        subject = self._subject
        inputs = [subject.graph_sha256, subject.pairs_sha256, *subject.layers]
        return digest([peer.name, repr(peer.quantise), peer.versions, inputs])


def quantise(
    function: Callable[[Subject, Path], None], modules: tuple[str, ...], subject: Subject, target: Path
) -> float:
    """Seconds that a peer takes to write its model to `target`, its `modules` imported beforehand."""
    for module in modules:
        import_module(module)
    started = time.monotonic()
    function(subject, target)
    return time.monotonic() - started


def _row(peer: Peer, runtime: str) -> str:
    return peer.name if len(peer.runtimes) == 1 else f"{peer.name}, {RUNTIMES[runtime].label}"


def _identity_in(home: Path) -> str:
    """Of the model that stands in a peer's folder; empty where none does."""
    try:
        return str(read_json(home / SIDECAR)["identity"])
    except (InputError, KeyError):
        return ""
