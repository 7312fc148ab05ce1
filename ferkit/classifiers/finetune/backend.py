"""Opening Keras: on a backend that is there, and without the chatter of its native code."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator

from ferkit.core.errors import DependencyError

BACKENDS = ("tensorflow", "jax", "torch")


def open_keras() -> str:
    """Import Keras and use every accelerator that its backend can share the work among.

    The backend is the one that ``KERAS_BACKEND`` names, or the first one installed of :data:`BACKENDS`.

    Returns:
        The backend's name.

    Raises:
        DependencyError: Keras or the backend is not installed.
    """
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ:
        installed = next((name for name in BACKENDS if importlib.util.find_spec(name)), None)
        if installed is None:
            raise DependencyError(
                "training needs Keras and TensorFlow, JAX or Torch; pip install 'ferkit[train]'"
            )
        os.environ["KERAS_BACKEND"] = installed
    try:
        with _native_silence():
            import keras

            keras.ops.zeros(1)  # the first tensor is what looks for devices
    except ImportError as error:
        raise DependencyError(
            f"training needs Keras with a backend ({error}); pip install 'ferkit[train]'"
        ) from None
    if keras.backend.backend() == "jax":
        accelerators = keras.distribution.list_devices()
        if len(accelerators) > 1 and keras.distribution.distribution() is None:
            keras.distribution.set_distribution(keras.distribution.DataParallel(devices=accelerators))
    return str(keras.backend.backend())


def devices_sharing() -> int:
    """Among how many accelerators each batch is divided; its size must be a multiple of that."""
    import keras

    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.device_mesh.devices.size)


@contextlib.contextmanager
def _native_silence() -> Iterator[None]:
    """TensorFlow writes to the process's standard error before its own log level counts: close that meanwhile."""
    try:
        real = os.dup(2)
    except OSError:  # there is none: a service, a notebook
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(real, 2)
        os.close(real)
        os.close(nowhere)
