"""A bucket of an emulated object store on loopback, which can be made to fail."""

import contextlib
import io
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from unittest import mock

import pytest

NAME = "bucket"
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    # Neither the machine's own account nor its metadata service is asked.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Answers:
    """What stands before the emulator, and may answer in its place.

    Attributes:
      status: answered to requests for which `applies` holds; 0 lets all pass.
      seconds: that every answer takes.
      stored: paths of the requests to store that passed.
      held: is set when a request for which `holds` is true has come; it is not answered until
        `reset`.
    """

    def __init__(self, app):
        self._app = app
        self.stored: list[str] = []
        self._released = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Lets every request pass at once."""
        self.status, self.code, self.seconds = 0, "", 0.0
        self.applies = lambda method, key: True
        self.holds = lambda method, key: False
        self._released.set()
        self._released, self.held = threading.Event(), threading.Event()

    def fail(self, status: int, code: str, applies=lambda method, key: True) -> None:
        """Answers so to requests, by method and path, for which `applies` holds."""
        self.applies, self.code, self.status = applies, code, status

    def __call__(self, environ, start_response):
        time.sleep(self.seconds)
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if self.status and self.applies(method, key):
            body = f"<Error><Code>{self.code}</Code><Message>{self.code}</Message></Error>".encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            start_response(f"{self.status} {self.code}", headers)
            return [body]
        if self.holds(method, key):
            released = self._released
            self.held.set()
            released.wait()
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Gone", [("Content-Length", "0")])
            return [b""]
        if method == "PUT":
            self.stored.append(key)
        return self._app(environ, start_response)


@pytest.fixture(scope="module")
def s3() -> Iterator[Answers]:
    """An empty s3://bucket, which this process and those that it starts reach."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *args, **kwargs):
            pass

    answers = Answers(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, answers, threaded=True, request_handler=Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.port}"
    with mock.patch.dict(os.environ, ACCOUNT | {"AWS_ENDPOINT_URL": url}):
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        client = _client()
        if client.exists(NAME):  # the emulator's objects outlive its servers
            client.rm(NAME, recursive=True)
        client.mkdir(NAME)
        yield answers
    server.shutdown()


@pytest.fixture
def gs() -> Iterator[None]:
    """An empty gs://bucket, likewise."""
    from gcp_storage_emulator import server as emulator

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    with contextlib.redirect_stderr(io.StringIO()):  # what its threads say of closed connections
        server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=NAME)
        # One request at a time; TensorStore opens dozens of connections, which have to wait.
        with mock.patch.object(emulator.server.HTTPServer, "request_queue_size", 1024):
            server.start()
        url = f"http://127.0.0.1:{port}"
        names = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL")
        with mock.patch.dict(os.environ, dict.fromkeys(names, url) | {"NO_GCE_CHECK": "true"}):
            yield
        server.stop()


@pytest.fixture(autouse=True)
def all_pass(s3):
    """Undoes what a test made the store answer."""
    yield
    s3.reset()


def _client():
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)


def objects(below: str) -> dict[str, bytes]:
    """The objects below a key of the bucket, by the rest of their names."""
    client = _client()
    names = client.find(f"{NAME}/{below}")
    return {name.removeprefix(f"{NAME}/{below}/"): client.cat_file(name) for name in names}


def store(key: str, content: bytes) -> str:
    """Stores an object, and gives its URL."""
    _client().pipe_file(f"{NAME}/{key}", content)
    return f"s3://{NAME}/{key}"


@contextlib.contextmanager
def started(module: str, *arguments: str) -> Iterator[subprocess.Popen]:
    """A program of its own, killed when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
