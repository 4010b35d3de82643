"""What the pages have in common: addresses, packages, and who may ask."""

import importlib.util
import re
import socket

import pytest
from conftest import PROJECT

import mos
import serving
from utils import UserError


def test_addresses():
    assert serving.address_of("127.0.0.1", 7) == "http://127.0.0.1:7"
    assert serving.address_of("::1", 7) == "http://[::1]:7"
    everywhere = serving.address_of("0.0.0.0", 7)
    assert re.fullmatch(r"http://[^:]+:7", everywhere) and "0.0.0.0" not in everywhere


def test_a_port_that_is_taken_is_one_sentence():
    with serving.listening("127.0.0.1", 0) as (listener, address):
        port = listener.getsockname()[1]
        assert address == f"http://127.0.0.1:{port}"
        with pytest.raises(OSError):  # a server on all addresses would answer on 127.0.0.2 too, where Linux has it
            socket.create_connection(("127.0.0.2", port), timeout=5)
        with (
            pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be had .*: choose another --port"),
            serving.listening("127.0.0.1", port),
        ):
            pass
    with pytest.raises(UserError, match="cannot be had"), serving.listening("no such host", 0):
        pass


def test_missing_packages_are_a_hint(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else True)
    with pytest.raises(UserError, match="this page needs uvicorn: pip install -r requirements-demo.txt"):
        serving.check_packages(mos.PACKAGES)


def test_the_extra_packages_are_listed():
    """FastAPI comes with Gradio."""
    listed = (PROJECT / "requirements-demo.txt").read_text()
    for package in {*mos.PACKAGES, *serving.GRADIO} - {"fastapi"}:
        assert re.search(rf"^{package}>=", listed, re.MULTILINE), package
    assert "-r requirements-demo.txt" in (PROJECT / "requirements-dev.txt").read_text()
