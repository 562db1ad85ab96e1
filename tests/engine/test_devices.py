import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmcli.bundle.load import load_encoder
from lmcli.bundle.store import read_bundle
from lmcli.engine.devices import Device, _quota, num_cores, parse_device
from lmcli.errors import UnavailableError, UsageError
from tests import tiny

NO_CUDA = {
    "this onnxruntime was built without CUDA",
    "CUDA device 0 cannot be used: no NVIDIA driver on this machine",
}
without_gpu = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("auto", Device("auto")),
        ("cpu", Device("cpu")),
        ("cuda", Device("cuda", 0)),
        ("cuda:0", Device("cuda", 0)),
        ("cuda:12", Device("cuda", 12)),
    ],
)
def test_parse_device(text: str, device: Device) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize("text", ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:1000", "cuda:1 "])
def test_other_devices_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        parse_device(text)


@pytest.fixture
def one_core() -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("one_core")
def test_num_cores_respects_the_affinity() -> None:
    assert num_cores() == 1


def test_num_cores_is_no_more_than_there_are() -> None:
    assert 1 <= num_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("", None),
        ("many few\n", None),
        (None, None),
    ],
    ids=["no limit", "whole", "rounded up", "part of one", "empty", "nonsense", "missing"],
)
def test_quota_of_the_control_group(tmp_path: Path, content: str | None, cores: int | None) -> None:
    if content is not None:
        (tmp_path / "cpu.max").write_text(content)
    assert _quota(tmp_path, tmp_path / "none") == cores


@pytest.mark.parametrize(
    ("own", "cores"),
    [
        ("0::/\n", 8),
        ("0::/system.slice/job.service\n", 2),
        ("1:cpu:/x\n0::/system.slice\n", 4),
        ("0::/system.slice/other.service\n", 4),
        ("0::/gone\n", 8),
        ("1:cpu:/system.slice\n", 8),
        ("", 8),
    ],
)
def test_the_least_quota_above_the_process_counts(tmp_path: Path, own: str, cores: int) -> None:
    (tmp_path / "root/system.slice/job.service").mkdir(parents=True)
    (tmp_path / "root/system.slice/other.service").mkdir()
    (tmp_path / "own").write_text(own)
    for name, quota in (("", 800), ("system.slice", 400), ("system.slice/job.service", 200)):
        (tmp_path / "root" / name / "cpu.max").write_text(f"{quota}000 100000\n")
    (tmp_path / "root/system.slice/other.service/cpu.max").write_text("max 100000\n")
    assert _quota(tmp_path / "root", tmp_path / "own") == cores


@pytest.fixture(scope="module")
def cuda_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_sentiment(tmp_path_factory.mktemp("bundles") / "moods", made_for="cuda")


@without_gpu
def test_cuda_is_refused_where_there_is_none(cuda_bundle: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        load_encoder(read_bundle(cuda_bundle), Device("cuda"), threads=1, report=lambda _: None)
    assert caught.value.exit_code == 69
    assert caught.value.message in NO_CUDA


@without_gpu
def test_auto_falls_back_to_the_cpu_and_says_so(cuda_bundle: Path) -> None:
    told: list[str] = []
    bundle = read_bundle(cuda_bundle)
    with load_encoder(bundle, Device("auto"), threads=1, report=told.append) as encoder:
        assert [row.tolist() for row in encoder.encode(["good"])[0].logits] == [[0, 1]]  # type: ignore[union-attr]
    assert told in [[f"running on the CPU: {reason}"] for reason in NO_CUDA]


def test_a_bundle_for_the_cpu_does_not_run_on_cuda(moods: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        load_encoder(read_bundle(moods), Device("cuda"), threads=1, report=lambda _: None)
    assert caught.value.message == "moods is a bundle for the CPU (fp32)"


def test_auto_is_the_cpu_for_a_bundle_made_for_it(moods: Path) -> None:
    told: list[str] = []
    with load_encoder(read_bundle(moods), Device("auto"), threads=1, report=told.append) as encoder:
        assert [row.tolist() for row in encoder.encode(["bad"])[0].logits] == [[1, 0]]  # type: ignore[union-attr]
    assert told == []
