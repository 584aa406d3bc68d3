"""Devices: which exist here, and on which one tensors are made.

The choice is a thread's own, and is part of a signature's key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from stagekit.errors import DeviceError
from stagekit.source import here

device_variable: ContextVar[str] = ContextVar("device", default="cpu")


def devices() -> list[str]:
    """The names of the devices that exist here, as `devices` of the Array API standard.

    >>> devices()
    ['cpu']
    """
    return ["cpu"]


def device(name: str) -> AbstractContextManager[None]:
    """Inside the block tensors are made on the device `name`. Raises DeviceError if there is none.

    Source: `tf.device`.

    >>> with device("cpu"):
    ...     as_device(None)
    'cpu'
    """
    return _choosing(as_device(name))


@contextmanager
def _choosing(name: str) -> Iterator[None]:
    token = device_variable.set(name)
    try:
        yield
    finally:
        device_variable.reset(token)


def as_device(name: str | None) -> str:
    """The name of an existing device, the chosen one for None; DeviceError for any other."""
    if name is None:
        return device_variable.get()
    if name not in devices():
        cuda = str(name).partition(":")[0] == "cuda"
        raise DeviceError(
            f"there is no device {name!r} here, only {', '.join(devices())}",
            fix="cuda needs cupy, which this version does not use yet" if cuda else "use 'cpu'",
        ).located(here())
    return name
