"""What this package keeps in the user's cache folder goes to a folder of the test run's own; our operators for ONNX
Runtime are there wherever a compiler is; equal networks are exported once."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CACHE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
LONGEST = ("pipeline", "test_readme.py", "test_cli.py", "benchmarks", "test_packaging.py", "graph")
FIRST = "test_conditional.py"
"""It makes runs of its own, while a second process makes the one that the other files of its folder share."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CACHE] = tempfile.TemporaryDirectory(prefix="ptq-export-tests-")
    os.environ["XDG_CACHE_HOME"] = config.stash[CACHE].name


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[CACHE].cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: `make test` hands the files out in this order, and its processes end together."""
    items.sort(key=lambda item: (item.path.name != FIRST, _rank(item)))


def _rank(item: pytest.Item) -> int:
    room = item.path.relative_to(Path(__file__).parent).parts[0]
    return LONGEST.index(room) if room in LONGEST else len(LONGEST)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # all that was imported: every timing begins with a collection, which then does not look there again


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test run, the same one for all of its processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_export_of_equal_networks(shared_folder: Path) -> Iterator[None]:
    from exports_once import once  # not above: the cache folder is set first

    from ptq_export.pipeline import graphs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "export_module", once(graphs.export_module, shared_folder))
        yield


@pytest.fixture
def exported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test of what the exporter makes: it is asked each time."""
    from ptq_export.graph.export import export_module
    from ptq_export.pipeline import graphs

    monkeypatch.setattr(graphs, "export_module", export_module)


@pytest.fixture(scope="session")
def operators() -> Path:
    """Our operators for ONNX Runtime. A test skips only where nothing could have compiled them: else it fails."""
    from ptq_export.engines.ort import operators as compiled  # the cache folder is set by then

    library = compiled.library()
    if library is None and compiled.compiler() is None:
        pytest.skip("no C++ compiler")
    assert library is not None, compiled.missing_operators()
    return library
