"""The allocator's settings: taken by glibc, and harmless where there are none."""

import ctypes

from hcjax.devices import allocator


def test_glibc_takes_every_setting():
    assert allocator.keep_memory() == hasattr(ctypes.CDLL(None), "mallopt")


def test_a_library_without_settings_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert allocator.keep_memory() is False
