"""Stores that break off, as TensorStore says it: each is one line that names the store."""

import socket
import struct
import threading

import pytest
import tensorstore as ts

from unityvideo_jax import errors
from unityvideo_jax.files import store_faults

AGAIN = ", then give the same command again"


def _close(client):
    client.recv(1 << 20)


def _reset(client):
    client.recv(1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _half(client):
    client.recv(1 << 20)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


def _status(line):
    def answer(client):
        client.recv(1 << 20)
        client.sendall(f"HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\n{{}}".encode())

    return answer


def _not_there(client):
    raise AssertionError("no connection was asked for")


@pytest.mark.parametrize("driver", ["gcs", "s3"])
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (_close, "cannot be reached"),
        (_reset, "cannot be reached"),
        (_half, "cannot be reached"),
        (_not_there, "cannot be reached"),
        (_status("408 Request Timeout"), "does not serve requests"),
        (_status("429 Too Many Requests"), "does not serve requests"),
        (_status("500 Oops"), "does not serve requests"),
        (_status("503 Oops"), "does not serve requests"),
        (_status("403 Oops"), "access denied"),
    ],
)
def test_a_broken_answer_is_one_line(monkeypatch, driver, answer, says):
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def serve():
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    answer(client)

        if answer is _not_there:
            server.close()
        else:
            threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        spec = {"driver": driver, "bucket": "bucket", "path": "run/"}
        if driver == "s3":
            spec |= {"endpoint": url, "aws_region": "x", "aws_credentials": {"type": "anonymous"}}
        retries = {"max_retries": 2, "initial_delay": "1ms", "max_delay": "2ms"}
        context = ts.Context({"gcs_request_retries": retries, "s3_request_retries": retries})
        base = spec | {"path": "run/x/"}
        store = ts.KvStore.open({"driver": "ocdbt", "base": base}, context=context).result()
        with pytest.raises(ValueError) as raised:
            store.write("key", b"content" * 100).result(timeout=60)
    url = f"{'gs' if driver == 'gcs' else 's3'}://bucket/run"
    line = store_faults.explain(raised.value, folder=url)
    assert line.startswith(url) and says in line and "\n" not in line
    assert (AGAIN in line) == ("denied" not in line)


def test_a_long_reason_keeps_both_ends():
    long = f"Error writing a:\n {'b' * 500}: no space [source locations='x.cc:1\ny.cc:2']"
    assert errors.reason(ValueError(long)).startswith("Error writing a: bbb")
    assert errors.reason(ValueError(long)).endswith("bbb: no space")
    assert len(errors.reason(ValueError(long))) < 210
    assert errors.reason(ValueError("short")) == "short"
    assert errors.reason(ValueError()) == "ValueError"
