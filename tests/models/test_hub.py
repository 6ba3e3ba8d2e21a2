"""Published weights through the hub's cache and through a stand-in of the hub on this machine; no network."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import threading
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from sapling.errors import ModelError
from sapling.models import create_model, hub, load_model, origin_of, save_model
from tests.models.shaken import CLASSES, loaded

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\nlicense: cc-by-nc-4.0\ntags:\n- trees\n---\n# Trees\n"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """``timm/mobilenetv3_small_050.lamb_in1k`` as timm publishes it, and ``someone/trees`` as Sapling saves it."""
    root = tmp_path_factory.mktemp("repositories")
    published = timm.create_model("mobilenetv3_small_050", num_classes=1000)
    folder = root / "timm" / "mobilenetv3_small_050.lamb_in1k"
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in published.state_dict().items()}, folder / "model.safetensors")
    what = loaded("resnet20", img_size=32, store_size=32)
    trees = root / "someone" / "trees"
    save_model(trees, what.model, architecture=what.architecture, classes=what.classes, preprocess=what.preprocess)
    (trees / "README.md").write_text(CARD)
    return root, published


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, and neither the user's token nor a proxy."""
    folder = tmp_path / "hub"
    for module in (constants, huggingface_hub.file_download.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


def fill(cache: Path, repo: str, folder: Path) -> None:
    """Lay ``folder`` out in the cache as huggingface_hub does."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, place / "snapshots" / COMMIT)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def server(repositories, monkeypatch):
    """Answers ``/OWNER/NAME/resolve/REVISION/FILE`` as the hub does; ``asked`` lists the files."""
    root, _ = repositories
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, *, with_body):
            parts = self.path.lstrip("/").split("/", 4)
            if len(parts) < 5:  # the client's own errands
                self.send_error(404)
                return
            place = root / parts[0] / parts[1] / parts[4]
            asked.append(parts[4])
            if not place.is_file():
                self.send_response(404)
                code = "EntryNotFound" if place.parent.is_dir() else "RepoNotFound"
                self.send_header("X-Error-Code", code)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            blob = place.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(blob).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(blob)))
            self.end_headers()
            if with_body:
                self.wfile.write(blob)

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = False
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    # What HF_ENDPOINT sets when the client is imported.
    place = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", place)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield asked
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_filled_cache_needs_no_network(repositories, cache, offline):
    root, published = repositories
    fill(cache, "timm/mobilenetv3_small_050.lamb_in1k", root / "timm" / "mobilenetv3_small_050.lamb_in1k")
    fill(cache, "someone/trees", root / "someone" / "trees")
    model = create_model("mobilenetv3_small_050", num_classes=5, img_size=64, pretrained=True, seed=0)
    assert torch.equal(model.conv_stem.weight, published.conv_stem.weight)
    origin = origin_of(model)
    assert (origin.weights, origin.head) == ("pretrained", "fresh")
    trees = load_model("hf-hub:someone/trees")
    assert trees.classes == CLASSES
    assert origin_of(trees.model).licence == "cc-by-nc-4.0"


@pytest.mark.parametrize("name", ["a/b/c", "https://huggingface.co/owner/name", "my net", "a/../b"])
def test_what_is_no_name_is_said(cache, offline, name):
    with pytest.raises(ModelError, match="is no name on the hub"):
        load_model(f"hf-hub:{name}")


def test_an_empty_cache_offline_says_what_to_do(cache, offline):
    for call in (
        lambda: create_model("mobilenetv3_small_050", num_classes=5, img_size=64, pretrained=True),
        lambda: load_model("hf-hub:someone/trees"),
    ):
        with pytest.raises(ModelError, match="not on this machine and cannot be downloaded") as caught:
            call()
        assert "HF_HUB_OFFLINE is set" in str(caught.value)
        assert "HF_HOME" in str(caught.value)


def test_what_is_downloaded_once_is_there_offline(repositories, cache, server, monkeypatch):
    _, published = repositories
    trees = load_model("hf-hub:someone/trees")
    assert trees.classes == CLASSES
    assert origin_of(trees.model).licence == "cc-by-nc-4.0"
    model = create_model("mobilenetv3_small_050", num_classes=5, img_size=64, pretrained=True)
    assert torch.equal(model.conv_stem.weight, published.conv_stem.weight)
    assert set(server) == {"config.json", "model.safetensors", "README.md"}, "and never a pickled file"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.clear()
    again = load_model("hf-hub:someone/trees")
    assert torch.equal(again.model.fc.weight, trees.model.fc.weight)
    assert server == []


def test_what_the_hub_has_not(cache, server):
    with pytest.raises(ModelError, match="the hub has no 'someone/shrubs', or it is private"):
        load_model("hf-hub:someone/shrubs")
    with pytest.raises(ModelError, match=r"has no pytorch_model.bin"):
        hub.fetch("someone/trees", "pytorch_model.bin")


def test_a_card_is_not_needed(repositories, cache, offline):
    root, _ = repositories
    fill(cache, "someone/trees", root / "someone" / "trees")
    (cache / "models--someone--trees" / "snapshots" / COMMIT / "README.md").unlink()
    assert origin_of(load_model("hf-hub:someone/trees").model).licence is None
