from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmcli.bundle.manifest import Manifest
from lmcli.bundle.store import read_bundle
from tests.export.hub_server import Hub, serve


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    """Threads cost tiny models more than they gain, above all on a busy machine."""
    pytest.importorskip("torch").set_num_threads(1)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and huggingface_hub told to use it and a cache of its own.

    It reads its environment at import, hence the constants; test_source.py has one test of the variables.
    """
    pytest.importorskip("huggingface_hub")
    with serve(Hub()) as hub:
        constants = "huggingface_hub.constants"
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
        for module in (constants, "huggingface_hub.file_download"):  # a copy, before 1.0
            monkeypatch.setattr(f"{module}.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(f"{constants}.HF_HUB_ETAG_TIMEOUT", 0.3)
        yield hub


@pytest.fixture
def run_export(tmp_path: Path) -> Callable[..., Manifest]:
    """Export a checkpoint with options; the manifest of the bundle."""
    from lmcli.export.convert import export
    from lmcli.export.options import ExportOptions

    def run(checkpoint: Path, **options: Any) -> Manifest:
        path = export(
            str(checkpoint),
            "tiny",
            ExportOptions(**options),
            parent=tmp_path / "bundles",
            report=lambda _: None,
        )
        return read_bundle(path).manifest

    return run
