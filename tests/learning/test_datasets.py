"""The embedded digits, the IDX reader, MNIST and its download."""

import gzip
import hashlib
import http.server
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tertium.learning import datasets
from tertium.learning.datasets import embedded_digits, fetch_mnist, mnist, mnist_test, mnist_train
from tertium.learning.errors import DatasetError
from tertium.learning.idx import read_idx

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"
needs_mnist = pytest.mark.skipif(not REAL.is_dir(), reason="the MNIST files do not stand beside the repository")


def idx(array: np.ndarray, *, kind: int = 8) -> bytes:
    header = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("array", [ARRAY, ARRAY[0], ARRAY[0, 0], np.zeros((0, 5), np.uint8)])
def test_idx_files_are_read_raw_and_packed(tmp_path, pack, array):
    path = tmp_path / "x"
    path.write_bytes(pack(idx(array)))
    result = read_idx(path)
    assert result.dtype == np.uint8
    assert result.shape == array.shape
    assert np.array_equal(result, array)


GOOD = idx(ARRAY)
BAD = [
    (b"", "not an IDX file"),
    (b"\0\0", "not an IDX file"),
    (b"\1" + GOOD[1:], "not an IDX file"),
    (idx(ARRAY, kind=0x0D), "type 0x0d"),
    (bytes([0, 0, 8, 0]), "0 dimensions"),
    (bytes([0, 0, 8, 5]) + bytes(20), "5 dimensions"),
    (GOOD[:10], "inside its header"),
    (GOOD[:-1], "truncated: 23"),
    (GOOD + b"\0", "bytes after"),
    (bytes([0, 0, 8, 4]) + b"\xff" * 16, "claims"),
    (gzip.compress(GOOD, mtime=0)[:-9], "truncated|cannot be read"),
    (gzip.compress(GOOD, mtime=0) + b"junk", "cannot be read"),
    (b"\x1f\x8b" + bytes(20), "cannot be read"),
    (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 20, "cannot be read"),
    (gzip.compress(GOOD, mtime=0) + gzip.compress(b"more", mtime=0), "bytes after"),
]


@pytest.mark.parametrize(("content", "word"), BAD)
def test_a_bad_idx_file_is_refused_in_one_sentence(tmp_path, content, word):
    path = tmp_path / "train-labels"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=word) as caught:
        read_idx(path)
    assert "train-labels" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_folders_and_bounds(tmp_path):
    with pytest.raises(DatasetError, match="no file"):
        read_idx(tmp_path / "absent")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_idx(tmp_path)
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(idx(np.zeros(1000))))
    assert read_idx(path, most_bytes=1000).size == 1000
    with pytest.raises(DatasetError, match="more than the 999"):
        read_idx(path, most_bytes=999)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=60), st.sampled_from([b"", GOOD[:4], GOOD[:16], b"\x1f\x8b", gzip.compress(GOOD, mtime=0)[:20]])
)
@example(b"", GOOD)
def test_garbage_never_escapes_as_another_error(tmp_path_factory, tail, head):
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes(head + tail)
    try:
        result = read_idx(path)
    except DatasetError:
        return
    assert idx(result) == (head + tail)


def test_the_embedded_digits_split_the_same_everywhere():
    split = embedded_digits()
    assert (len(split.train), len(split.test)) == (1438, 359)
    assert split.test.counts() == (36, 36, 35, 37, 36, 36, 36, 36, 35, 36)
    assert split.train.counts() == (142, 146, 142, 146, 145, 146, 145, 143, 139, 144)
    assert split.train.inputs.dtype == np.float32
    assert (split.train.inputs.min(), split.train.inputs.max()) == (0.0, 1.0)
    assert split.test.labels[:12].tolist() == PINNED
    train = {row.tobytes() for row in split.train.inputs}
    assert not any(row.tobytes() in train for row in split.test.inputs)
    assert set(split.train.only([4, 5]).labels.tolist()) == {4, 5}
    assert len(split.train.only([])) == 0
    assert "inputs" not in repr(split.test)


def test_the_file_holds_what_scikit_learns_own_loader_returns(monkeypatch):
    read = datasets._digits_of_file()
    loaded = datasets._digits_of_loader()
    assert read is not None
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(read, loaded, strict=True))
    split = embedded_digits()
    # Another release may have it elsewhere, or another file: then its loader is asked.
    for name, value in (("DIGITS_FILE", Path("nowhere")), ("DIGITS_SHA256", "00" * 32)):
        with monkeypatch.context() as changed:
            changed.setattr(datasets, name, value)
            assert datasets._digits_of_file() is None
            again = embedded_digits()
            assert np.array_equal(again.train.inputs, split.train.inputs)
            assert np.array_equal(again.test.labels, split.test.labels)


def test_the_digits_are_read_without_importing_scikit_learn():
    code = (
        "import sys; from tertium.learning.datasets import embedded_digits; assert len(embedded_digits().test) == 359; "
        "assert 'sklearn.datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@needs_mnist
def test_mnist_has_the_counts_of_the_tutorial():
    split = mnist(REAL)
    counts = split.train.counts()
    assert counts == (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    assert split.test.counts() == (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    parties = [len(split.train.only(digits)) for digits in ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))]
    assert parties == [24754, 17181, 18065]
    assert split.train.inputs.shape == (60000, 28, 28)
    assert (split.test.inputs.min(), split.test.inputs.max()) == (0.0, 1.0)


@needs_mnist
def test_the_pinned_digests_are_those_of_the_original_files():
    for name, digest in datasets.MNIST_FILES.items():
        assert hashlib.sha256((REAL / name).read_bytes()).hexdigest() == digest


def small_mnist(folder: Path, **changes: bytes) -> dict[str, str]:
    """Write four tiny files and return their registry."""
    contents = {
        "train-images-idx3-ubyte.gz": idx(np.full((3, 28, 28), 255)),
        "train-labels-idx1-ubyte.gz": idx(np.array([7, 0, 9])),
        "t10k-images-idx3-ubyte.gz": idx(np.zeros((1, 28, 28))),
        "t10k-labels-idx1-ubyte.gz": idx(np.array([1])),
    }
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content, mtime=0))
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in contents}


def test_a_folder_is_read_packed_or_unpacked(tmp_path):
    small_mnist(tmp_path)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(gzip.decompress((tmp_path / f"{name}.gz").read_bytes()))
        (tmp_path / f"{name}.gz").unlink()
    assert mnist_train(tmp_path).labels.tolist() == [7, 0, 9]
    assert mnist_train(tmp_path).inputs.max() == 1.0
    assert mnist_train(tmp_path, [9, 0]).labels.tolist() == [0, 9]
    assert mnist_test(tmp_path).labels.tolist() == [1]


def test_a_folder_that_does_not_fit_together_is_refused(tmp_path):
    small_mnist(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    for content, word in ((idx(np.array([1, 2])), "as many labels"), (idx(np.array([1, 2, 10])), "above 9")):
        labels.write_bytes(content)
        with pytest.raises(DatasetError, match=word):
            mnist_train(tmp_path)
    labels.unlink()
    with pytest.raises(DatasetError, match="no file"):
        mnist(tmp_path)


@pytest.fixture
def server(tmp_path):
    """A loopback server over a folder; yields its URL, the folder, and the paths it was asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}", folder, asked
        finally:
            running.shutdown()
            thread.join()


def test_mnist_is_downloaded_once_and_checked(tmp_path, server):
    url, folder, asked = server
    files = small_mnist(folder)
    cache = tmp_path / "cache"
    assert fetch_mnist(cache, url, files) == cache
    assert sorted(asked) == sorted(f"/{name}" for name in files)
    assert mnist_train(cache).labels.tolist() == [7, 0, 9]
    asked.clear()
    fetch_mnist(cache, url, files)
    assert asked == []
    name = "train-labels-idx1-ubyte.gz"
    (cache / name).write_bytes(b"altered on the disk")
    fetch_mnist(cache, url, files)
    assert set(asked) == {f"/{name}"}
    assert mnist_train(cache).labels.tolist() == [7, 0, 9]


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(tmp_path, server):
    url, folder, _ = server
    files = small_mnist(folder)
    name = "train-images-idx3-ubyte.gz"
    (folder / name).write_bytes(b"something else")
    with pytest.raises(DatasetError, match="SHA-256"):
        fetch_mnist(tmp_path / "cache", url, files)
    assert not (tmp_path / "cache" / name).exists()


def test_a_missing_file_and_a_dead_server_are_one_sentence(tmp_path, server):
    url, folder, _ = server
    files = small_mnist(folder)
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DatasetError, match=r"t10k-images.*answered 404"):
        fetch_mnist(tmp_path / "cache", url, files)
    with pytest.raises(DatasetError, match="ConnectionError") as caught:
        fetch_mnist(tmp_path / "other", "http://127.0.0.1:9", files, timeout=2)
    assert "\n" not in str(caught.value)


PINNED = [3, 5, 6, 4, 5, 1, 7, 9, 5, 9, 8, 0]
