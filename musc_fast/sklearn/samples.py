"""What an estimator is given: images, or features of images, told apart and checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor

from ..errors import BackendError, ImageError, InputError, WeightsError
from ..features.batch_images import SKIP_HINT, ImageLike


def images_among(samples: Any) -> Sequence[ImageLike] | None:
    """The samples as a sequence of images; None where they are features.

    samples: paths, PIL images or arrays of pixels (uint8, uint16) in a list; paths in an array, a
        pandas column or a table with one column; one array [N, h, w, 3]. Anything else is for
        `checked_features`.

    Raises InputError for one path, and where some samples are images and others are not.
    """
    if isinstance(samples, str | os.PathLike):
        raise InputError(
            f"X: found the one path {os.fspath(samples)!r}, wanted a list of paths, one a sample"
        )
    if isinstance(samples, Tensor):
        return None
    if hasattr(samples, "toarray"):  # sparse; SciPy's dictionary of keys is a mapping, too
        return None
    if isinstance(samples, Iterator | Mapping | set):
        raise InputError(
            f"X: found {type(samples).__name__}, wanted an array, or a list of paths or images"
        )
    if not isinstance(samples, list | tuple):
        if not hasattr(samples, "__array__"):
            return None
        array = np.asarray(samples)
        if array.ndim == 4:
            return list(array)
        if array.dtype.kind not in "OUT":
            return None
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            return None
        samples = array.tolist()
    if not any(_is_image(each) for each in samples):
        return None
    for index, each in enumerate(samples):
        if not _is_image(each):
            raise InputError(
                f"X[{index}]: found {type(each).__name__}, wanted a path or an image as the others "
                "are"
            )
    return list(samples)


def _is_image(sample: object) -> bool:
    """Whether a sample is a path, a PIL image or an array of whole pixel values."""
    if isinstance(sample, np.ndarray):
        return sample.ndim in (2, 3) and sample.dtype in (np.uint8, np.uint16)
    return isinstance(sample, str | os.PathLike | Image.Image)


def checked_features(
    estimator: BaseEstimator, samples: Any, *, reset: bool, at_least: int
) -> tuple[NDArray[np.float32], bool]:
    """The features as [n_samples, patches, C], and whether each sample is one vector.

    samples: [n_samples, C], one vector a sample, or [n_samples, patches, C].
    reset: whether the estimator learns the number of features, or checks it.
    at_least: samples that are needed.

    Raises ValueError or TypeError as scikit-learn's own estimators do.
    """
    if isinstance(samples, Tensor):
        tensor = samples.detach().cpu()
        samples = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    options: dict[str, Any] = {"dtype": np.float32, "ensure_min_samples": at_least}
    axes = np.ndim(samples) if isinstance(samples, list | tuple) else getattr(samples, "ndim", 2)
    if axes != 3:
        array = validate_data(estimator, samples, reset=reset, **options)
        return np.require(array, np.float32, ["C", "W"])[:, None], True
    if np.asarray(samples).dtype.kind in "iu":
        raise InputError(
            f"X: found whole numbers {list(np.shape(samples))}, wanted floats [n_samples, patches, "
            "C]; give grey images in a list, [image, image, ...]"
        )
    array = check_array(samples, allow_nd=True, estimator=estimator, input_name="X", **options)
    if 0 in array.shape:
        raise InputError(f"X: found {list(array.shape)}, wanted no empty side")
    if reset:
        forget_features(estimator)
        estimator.n_features_in_ = array.shape[2]
    elif array.shape[2] != estimator.n_features_in_:
        raise InputError(
            f"X has {array.shape[2]} features a patch, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input"
        )
    return np.require(array, np.float32, ["C", "W"]), False


def forget_features(estimator: BaseEstimator) -> None:
    """Remove what an earlier `fit` learned of features."""
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(estimator, name):
            delattr(estimator, name)


def digests(layers: Sequence[Tensor]) -> list[bytes]:
    """A digest [N] of the tokens of each image; equal where they are equal to the bit."""
    found = []
    for index in range(len(layers[0])):
        digest = hashlib.blake2b(digest_size=16)
        for layer in layers:
            digest.update(layer[index].cpu().contiguous().numpy().tobytes())
        found.append(digest.digest())
    return found


@contextmanager
def value_errors() -> Iterator[None]:
    """Raise what is wrong with images and arguments as a ValueError, as scikit-learn does."""
    try:
        yield
    except (BackendError, WeightsError) as error:
        raise InputError(str(error)) from error
    except ImageError as error:
        raise InputError(f"X: {str(error).replace(SKIP_HINT, '')}") from None
