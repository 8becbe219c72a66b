"""Published weights: downloaded once, resumed, verified and checked, from a real HTTP server."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from models.file_server import file_server
from models.released import write_released
from troubleshooting import entry

import dat_train.models  # noqa: F401  registers the models
from dat_train.errors import UserError
from dat_train.models import Checkpoint, load_weights
from dat_train.models.weights import download, published_weights
from dat_train.models.weights.download import DownloadError
from dat_train.models.weights.download import download as fetch
from dat_train.models.weights.published_weights import PUBLISHED, PublishedWeights

CONTENT = os.urandom(3_000_000)


@pytest.fixture
def server():
    with file_server() as running:
        running.files["weights.pth"] = CONTENT
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)


# The download alone


def test_a_share_link_is_followed_and_the_server_names_the_file(server, tmp_path):
    server.redirect, server.disposition = True, "named by the server.pth"
    path = fetch(f"{server.url}/weights.pth?dl=1", tmp_path, "weights.pth")
    assert path == tmp_path / "named by the server.pth" and path.read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/weights.pth?dl=1", "/files/weights.pth"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_taken_by_another_file_is_not_used(server, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"of another program")
    server.disposition = "model.pth"
    assert fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth") == tmp_path / "weights.pth"
    assert (tmp_path / "model.pth").read_bytes() == b"of another program"


def test_a_file_name_cannot_leave_the_folder(server, tmp_path):
    for number, name in enumerate(("../../evil.pth", "/etc/evil.pth", "..\\evil.pth")):
        server.disposition, folder = name, tmp_path / str(number)
        folder.mkdir()
        assert fetch(f"{server.url}/weights.pth", folder, "weights.pth") == folder / "evil.pth"
    server.disposition = "../.bashrc"
    assert fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth") == tmp_path / "weights.pth"


def test_a_connection_cut_in_the_middle_is_resumed(server, tmp_path):
    server.cut_after = [1_000_000, 500_000]
    assert fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth").read_bytes() == CONTENT
    assert [part for _, part in server.requests] == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_download_that_was_given_up_is_resumed_by_the_next_process(server, tmp_path):
    server.cut_after = [1_000_000] + [0] * 10
    with pytest.raises(DownloadError, match="the connection broke after 1,000,000 of 3,000,000 bytes"):
        fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth")
    assert not (tmp_path / "weights.pth").exists()
    server.cut_after, server.requests = [], []
    assert fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth").read_bytes() == CONTENT
    assert server.requests == [("/weights.pth", "bytes=1000000-")]


def test_a_file_that_changed_between_two_parts_is_downloaded_again(server, tmp_path):
    server.cut_after = [1_000_000] + [0] * 10
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth")
    server.cut_after, server.files["weights.pth"] = [], CONTENT[::-1]
    assert fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth").read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_sends_the_file_again(server, tmp_path):
    server.ranges, server.cut_after = False, [1_000_000]
    assert fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth").read_bytes() == CONTENT


def test_a_login_page_is_not_stored_as_the_file(server, tmp_path):
    server.page = True
    with pytest.raises(DownloadError, match=r"the server sent a web page \(HTML\)"):
        fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth")
    assert not list(tmp_path.iterdir())


def test_a_login_page_does_not_destroy_a_partial_download(server, tmp_path):
    server.cut_after = [1_000_000] + [0] * 10
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth")
    server.page, server.cut_after = True, []
    with pytest.raises(DownloadError, match="web page"):
        fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth")
    server.page, server.requests = False, []
    assert fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth").read_bytes() == CONTENT
    assert server.requests == [("/weights.pth", "bytes=1000000-")]


def test_a_login_page_without_content_type_is_not_stored_either(server, tmp_path):
    server.files["weights.pth"] = b"\n<HTML><body>Log in</body></HTML>"
    with pytest.raises(DownloadError, match="the server sent a web page"):
        fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_files(server, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        with pytest.raises(DownloadError, match=r"cannot be written \(no room for 3 MB\)"):
            fetch(f"{server.url}/weights.pth", disk, "weights.pth")
        (disk / "other").write_bytes(bytes(700_000))
        server.length = False  # so that the disk is full in the middle of the download
        with pytest.raises(DownloadError, match=r"cannot be written \(No space left on device\)"):
            fetch(f"{server.url}/weights.pth", disk, "weights.pth")
        assert [path.name for path in disk.iterdir()] == ["other"]
    finally:
        subprocess.run(["umount", disk], check=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_download_shows_its_progress_on_a_terminal_alone(server, tmp_path, monkeypatch, capsys):
    fetch(f"{server.url}/weights.pth", tmp_path, "weights.pth")
    assert capsys.readouterr().err == ""
    server.cut_after = [1_000_000]
    monkeypatch.setattr(sys, "stderr", Terminal())
    fetch(f"{server.url}/weights.pth", tmp_path, "again.pth")
    text = sys.stderr.getvalue()
    assert re.search(r"again\.pth: +33%.*977k/2\.86M", text)  # the second connection begins where the first one broke
    assert re.search(r"again\.pth: 100%.*2\.86M/2\.86M", text)


def test_an_unreachable_server_is_reported_in_a_few_words(server, tmp_path):
    with pytest.raises(DownloadError, match=r"^HTTP 404 Not Found$"):
        fetch(f"{server.url}/absent.pth", tmp_path, "absent.pth")
    with pytest.raises(DownloadError, match=r"^Connection refused$"):
        fetch("http://127.0.0.1:9/absent.pth", tmp_path, "absent.pth")
    with pytest.raises(DownloadError, match=r"[Nn]ame"):
        fetch("http://no-such-host.invalid/absent.pth", tmp_path, "absent.pth")


# Weights of a model


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Files in the released layout by published names: DAT-T with formula weights, the other models too small."""
    folder = tmp_path_factory.mktemp("released")
    torch.manual_seed(0)
    model = timm.create_model("dat_tiny")
    write_released(model, folder / "dat_tiny_in1k_224.pth")
    return folder, model


@pytest.fixture
def place(server, released, tmp_path, monkeypatch):
    """A server with the released files, an empty cache, and the authors' server at a place that is not reachable."""
    server.files = {"dat_tiny_in1k_224.pth": (released[0] / "dat_tiny_in1k_224.pth").read_bytes()}
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DAT_TRAIN_WEIGHTS", server.url)
    for name, weights in PUBLISHED.items():
        monkeypatch.setitem(PUBLISHED, name, PublishedWeights("http://127.0.0.1:9/f/", weights.file, weights.top1))
    return server


def test_pretrained_weights_are_downloaded_once_and_work_offline(place, released, tmp_path, monkeypatch, capsys):
    model = timm.create_model("dat_tiny", pretrained=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), released[1].parameters(), strict=True))
    assert "downloading the published weights of dat_tiny from http" in capsys.readouterr().err
    folder = tmp_path / "cache" / "hub" / "checkpoints"
    record = json.loads((folder / "dat_tiny_in1k_224.pth.json").read_text())
    assert record["file"] == "dat_tiny_in1k_224.pth" and re.fullmatch("[0-9a-f]{64}", record["sha256"])
    place.shutdown()
    monkeypatch.delenv("DAT_TRAIN_WEIGHTS")
    timm.create_model("dat_tiny", pretrained=True)
    assert len(place.requests) == 1


def test_pretrained_weights_fit_other_classes_channels_sizes_and_features(place, released):
    whole = released[1]
    model = timm.create_model("dat_tiny", pretrained=True, num_classes=7, in_chans=1, img_size=256)
    assert model.head.fc.out_features == 7
    assert torch.equal(model.stages[3].blocks[0].attn.qkv.weight, whole.stages[3].blocks[0].attn.qkv.weight)
    assert torch.allclose(model.stem.conv.weight, whole.stem.conv.weight.sum(1, keepdim=True))
    features = timm.create_model("dat_tiny", pretrained=True, features_only=True)
    assert [x.shape[1] for x in features(torch.zeros(1, 3, 224, 224))] == [96, 192, 384, 768]
    assert torch.equal(features.model.stem.conv.weight, whole.stem.conv.weight)


def test_timms_own_ways_to_other_weights_still_work(tmp_path, released):
    file = str(released[0] / "dat_tiny_in1k_224.pth")
    model = timm.create_model("dat_tiny", pretrained=True, pretrained_cfg_overlay={"file": file})
    assert torch.equal(model.head.fc.weight, released[1].head.fc.weight)


def test_a_file_put_into_the_cache_or_a_folder_by_hand_is_used(place, released, tmp_path, monkeypatch):
    source = released[0] / "dat_tiny_in1k_224.pth"
    monkeypatch.setenv("DAT_TRAIN_WEIGHTS", str(released[0]))
    assert Checkpoint.open("published:dat_tiny").path == source
    monkeypatch.setenv("DAT_TRAIN_WEIGHTS", str(tmp_path))
    folder = tmp_path / "cache" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / source.name).symlink_to(source)
    assert Checkpoint.open("published:dat_tiny").path == folder / source.name
    assert not list(folder.glob(".*.lock"))  # nothing is written, so the cache may be read-only
    assert not place.requests


def test_an_altered_file_in_the_cache_is_noticed(place, tmp_path):
    path = Checkpoint.open("published:dat_tiny").path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="was altered since it was downloaded"):
        Checkpoint.open("published:dat_tiny")


@pytest.mark.parametrize("other", ["dat_tiny with other bias tables", "dat_nano", "384 pixels"])
def test_weights_of_another_model_are_never_taken(other, place, released, tmp_path):
    file = tmp_path / "other.pth"
    if other == "dat_nano":
        write_released(timm.create_model("dat_nano", num_classes=1000), file)
    elif other == "384 pixels":  # some released files hold their configuration
        write_released(released[1], file, config={"DATA": {"IMG_SIZE": 384}})
    else:
        write_released(timm.create_model("dat_tiny", img_size=448), file)
    place.files["dat_tiny_in1k_224.pth"] = file.read_bytes()
    with pytest.raises(
        UserError, match=r": dat_tiny_in1k_224.pth does not hold the published weights of dat_tiny"
    ) as e:
        timm.create_model("dat_tiny", pretrained=True)
    assert "\n" not in str(e.value) and ".part" not in str(e.value)
    assert not list((tmp_path / "cache" / "hub" / "checkpoints").glob("dat_tiny*"))


def test_a_failed_download_is_one_line_with_link_and_folder(place, tmp_path):
    place.files = {}
    with pytest.raises(UserError) as caught:
        load_weights(timm.create_model("dat_tiny"), "published:dat_tiny")
    text = str(caught.value)
    assert "HTTP 404" in text and "Connection refused" in text and "open http://127.0.0.1:9/f/ in a browser" in text
    assert f"put the file into {tmp_path / 'cache' / 'hub' / 'checkpoints'} as dat_tiny_in1k_224.pth" in text
    assert "\n" not in text and entry("published-weights").search(text)


def test_models_without_published_weights_are_reported():
    with pytest.raises(RuntimeError, match="No pretrained weights exist for dat_nano"):
        timm.create_model("dat_nano", pretrained=True)
    with pytest.raises(UserError, match="no published weights for dat_nano; there are some for dat_tiny, "):
        Checkpoint.open("published:dat_nano")


def test_every_published_model_names_its_file_and_link():
    assert len(PUBLISHED) == 8
    for name, weights in PUBLISHED.items():
        assert timm.get_pretrained_cfg(name).file == f"published:{name}"
        assert re.fullmatch(r"https://cloud\.tsinghua\.edu\.cn/f/[0-9a-f]{20}/", weights.link)
        assert weights.url == f"{weights.link}?dl=1"
    assert published_weights.cache_folder() == Path(torch.hub.get_dir()) / "checkpoints"


@pytest.mark.long  # a process takes seconds to import torch
def test_two_processes_download_one_file(place, tmp_path):
    place.pause = 5  # so that the second process starts during the download of the first
    code = "from dat_train.models import Checkpoint; print(Checkpoint.open('published:dat_tiny').path)"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    paths = [process.communicate(timeout=120)[0].strip() for process in both]
    assert paths == [str(tmp_path / "cache/hub/checkpoints/dat_tiny_in1k_224.pth")] * 2
    assert len(place.requests) == 1
