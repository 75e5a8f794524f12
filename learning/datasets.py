"""Labelled images, without torch: the digits embedded in scikit-learn, and MNIST from its four original files.

Which example is held out never depends on a library's generator, so two machines hold out the same ones. What is
downloaded is pinned by SHA-256: a mirror can refuse to serve, it cannot choose what we train on. Of scikit-learn only
the file with the digits is read: importing it takes a party longer than importing torch does.
"""

import gzip
import hashlib
import importlib.util
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .batches import shuffled
from .errors import DatasetError
from .extras import require
from .idx import read_idx

MNIST_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES: Mapping[str, str] = {
    "train-images-idx3-ubyte.gz": "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
"""The four original files and their SHA-256."""
TRAIN = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
MNIST_SHAPE = (28, 28)
TIMEOUT = 30.0
"""Seconds a download waits for the next bytes."""
DIGITS_FILE = Path("datasets", "data", "digits.csv.gz")
"""Where the digits are inside scikit-learn: 1,797 lines of 64 pixels from 0 to 16 and a label."""
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
DIGITS_SIDE = 8
HELD_OUT = 5
"""One embedded digit in this many is held out."""
CLASSES = 10

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Images:
    """Images float32 [n, height, width] from 0 to 1, and labels int64 [n]. Private, so never in a repr."""

    inputs: npt.NDArray[np.float32] = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, digits: Collection[int]) -> "Images":
        """Return the images of some digits, in their order."""
        kept = np.isin(self.labels, list(digits))
        return Images(self.inputs[kept], self.labels[kept])

    def counts(self) -> tuple[int, ...]:
        """Return how many images there are of each digit, 0 to 9."""
        return tuple(np.bincount(self.labels, minlength=CLASSES).tolist())


@dataclass(frozen=True)
class Split:
    """What is trained on and what is held out."""

    train: Images
    test: Images


def embedded_digits() -> Split:
    """Return the 1,797 handwritten 8x8 digits inside scikit-learn; one in five of each digit is held out.

    Raises:
        SiteFileError: scikit-learn is not installed.
    """
    pixels, labels = _digits_of_file() or _digits_of_loader()
    images = Images((pixels / 16).astype(np.float32), labels.astype(np.int64))
    held_out = np.zeros(len(images), dtype=np.bool_)
    for digit in range(CLASSES):
        rows = np.flatnonzero(images.labels == digit)
        order = shuffled(len(rows), b"held-out digits", bytes([digit]))
        held_out[rows[order[: round(len(rows) / HELD_OUT)]]] = True
    return Split(
        train=Images(images.inputs[~held_out], images.labels[~held_out]),
        test=Images(images.inputs[held_out], images.labels[held_out]),
    )


def _digits_of_file() -> tuple[Floats, Floats] | None:
    """Return pixels [n, 8, 8] and labels [n], or None where scikit-learn has not the file that is known here."""
    found = importlib.util.find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder) / DIGITS_FILE
        packed = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(packed).hexdigest() == DIGITS_SHA256:
            lines = gzip.decompress(packed).decode("ascii").splitlines()
            rows = np.loadtxt(lines, delimiter=",", dtype=np.float64)
            return rows[:, :-1].reshape(-1, DIGITS_SIDE, DIGITS_SIDE), rows[:, -1]
    return None


def _digits_of_loader() -> tuple[Floats, Floats]:
    """Return what scikit-learn's own loader returns; raises `SiteFileError` where it is not installed."""
    bunch = require("sklearn.datasets").load_digits()
    return bunch.images, bunch.target


def _pair(folder: Path, images: str, labels: str) -> tuple[Bytes, Bytes]:
    """Return pixels [n, height, width] and labels [n] of one pair of IDX files; raises `DatasetError`."""
    pixels, answers = (read_idx(_either(folder, name)) for name in (images, labels))
    if pixels.ndim != 3 or answers.ndim != 1 or len(pixels) != len(answers):
        raise DatasetError(f"{images} and {labels} are not images and as many labels")
    if answers.size and answers.max() >= CLASSES:
        raise DatasetError(f"{labels} holds a label above 9")
    return pixels, answers


def _labelled(folder: Path, images: str, labels: str, digits: Collection[int] | None) -> Images:
    """Return one pair of IDX files as images of some digits, all for None; raises `DatasetError`."""
    pixels, answers = _pair(folder, images, labels)
    if digits is not None:
        kept = np.isin(answers, list(digits))
        pixels, answers = pixels[kept], answers[kept]
    return Images(pixels.astype(np.float32) / np.float32(255), answers.astype(np.int64))


def _either(folder: Path, name: str) -> Path:
    """Return the file as it was published, or unpacked where only that is there."""
    unpacked = folder / name.removesuffix(".gz")
    return unpacked if unpacked.is_file() and not (folder / name).is_file() else folder / name


def mnist_train(data_dir: Path, digits: Collection[int] | None = None) -> Images:
    """Return MNIST's training images, [n, 28, 28], from a folder with the original files (.gz or unpacked).

    All 60,000 of them, or those of some `digits`.

    Raises:
        DatasetError: a file is missing or damaged.
    """
    return _labelled(data_dir, *TRAIN, digits)


def mnist_test(data_dir: Path, digits: Collection[int] | None = None) -> Images:
    """Return MNIST's 10,000 test images, or those of some digits, as `mnist_train` does."""
    return _labelled(data_dir, *TEST, digits)


def mnist(data_dir: Path) -> Split:
    """Return both halves of MNIST from a folder with the four original files; raises `DatasetError`."""
    return Split(train=mnist_train(data_dir), test=mnist_test(data_dir))


def mnist_labels(data_dir: Path) -> tuple[Bytes, Bytes]:
    """Return the labels of the training and of the test images, once all four files were read and found sound.

    Raises:
        DatasetError: a file is missing or damaged, or its images are not of 28 x 28 pixels.
    """
    found = []
    for images, labels in (TRAIN, TEST):
        pixels, answers = _pair(data_dir, images, labels)
        if pixels.shape[1:] != MNIST_SHAPE:
            raise DatasetError(f"{images} holds images of {' x '.join(map(str, pixels.shape[1:]))} pixels, not 28 x 28")
        found.append(answers)
    return found[0], found[1]


def fetch_mnist(
    cache_dir: Path, base_url: str = MNIST_MIRROR, files: Mapping[str, str] = MNIST_FILES, timeout: float = TIMEOUT
) -> Path:
    """Download what is not yet in `cache_dir`, check every file's SHA-256, and return the folder.

    `files` maps names to hexadecimal SHA-256 digests; a cached file with another digest is downloaded again.

    Raises:
        DatasetError: a file cannot be downloaded or is not the pinned one; nothing wrong stays in the cache.
        SiteFileError: pooch is not installed.
    """
    pooch = require("pooch")
    failures = require("requests").exceptions
    pooch.get_logger().setLevel(logging.WARNING)
    base = base_url if base_url.endswith("/") else f"{base_url}/"
    registry = {name: f"sha256:{digest}" for name, digest in files.items()}
    store = pooch.create(path=cache_dir, base_url=base, registry=registry)
    download = pooch.HTTPDownloader(progressbar=False, timeout=timeout)
    for name in files:
        try:
            store.fetch(name, downloader=download)
        except (failures.RequestException, OSError) as error:
            raise DatasetError(f"{name} could not be downloaded from {base}: {_cause(error)}") from error
        except ValueError as error:
            raise DatasetError(
                f"{name} from {base} is not the file whose SHA-256 is pinned, and was not kept"
            ) from error
    return cache_dir


def _cause(error: BaseException) -> str:
    """Return a short reason, without the layers a connection error wraps it in."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"the server answered {status}" if status else type(error).__name__
