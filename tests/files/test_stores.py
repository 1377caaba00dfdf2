"""Files in an object store: what is read, what is stored and when, and what fails in one line."""

import errno
import json
import subprocess
import time

import numpy as np
import pytest

from tests.bucket import NAME, all_pass, objects, s3, store  # noqa: F401
from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import (
    disk,
    paths,
    provenance,
    store_faults,
    store_lock,
    stores,
    strict_json,
)
from unityvideo_jax.inputs.config import DataConfig
from unityvideo_jax.inputs.manifest import ManifestSource
from unityvideo_jax.sampling import requests

URL = f"s3://{NAME}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Requests that fail are repeated once."""
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    s3fs.S3FileSystem.clear_instance_cache()
    stores._file_system.cache_clear()
    with stores.session():
        yield
    stores._file_system.cache_clear()


def test_a_place_is_the_url_with_the_same_names():
    place = stores.place(f"{URL}/run/config.json")
    assert place.parts[-4:] == ("s3", NAME, "run", "config.json")
    assert (
        stores.url(place) == stores.url(f"s3:/{NAME}/run/config.json") == f"{URL}/run/config.json"
    )
    assert stores.named(f"{place}: damaged") == f"{URL}/run/config.json: damaged"
    assert stores.url("run") is None and stores.place("run").name == "run"
    with pytest.raises(UserError, match=r"neither `\.` nor"):
        stores.place(f"{URL}/../../etc/passwd")


def test_a_folder_is_fetched_without_a_run_s_checkpoints():
    for name in ("config.json", "checkpoints/2/params/x", "samples/a.png", "vae/weights"):
        store(f"fetched/{name}", name.encode())
    place = stores.local(f"{URL}/fetched")
    found = sorted(str(f.relative_to(place)) for f in place.rglob("*") if f.is_file())
    assert found == ["config.json", "vae/weights"]
    # What is at a place and was not fetched is when it is asked for.
    assert (stores.local(place / "samples" / "a.png")).read_text() == "samples/a.png"
    assert not stores.local(f"{URL}/nothing").exists()


def test_a_file_is_stored_when_it_is_whole_and_a_failed_one_never(s3):  # noqa: F811
    place = stores.local(f"{URL}/written", writes=True)
    provenance.write_json(place / "a.json", {"place": place})
    assert json.loads(objects("written")["a.json"]) == {"place": f"{URL}/written"}
    with pytest.raises(ZeroDivisionError), paths.atomic_path(place / "b.json") as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert set(objects("written")) == {"a.json"}
    (place / "trace").write_text("appended")  # by a library that knows no stores
    (place / "checkpoints" / "0" / "params").mkdir(parents=True)
    for name in ("commit_success.txt", "params/commit_success.txt", "z", "params/x"):
        (place / "checkpoints" / "0" / name).write_text(name)
    (place / "a.json").unlink()
    s3.stored.clear()
    stores.push()
    marks = [key.rpartition("/checkpoints/0/")[2] for key in s3.stored][-2:]
    assert marks == ["params/commit_success.txt", "commit_success.txt"]
    held = set(objects("written"))
    assert {"trace", "checkpoints/0/z"} < held and "a.json" not in held
    s3.stored.clear()
    stores.push()
    assert not s3.stored


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (503, "SlowDown", "does not serve requests"),
        (403, "AccessDenied", "access denied"),
        (403, "InvalidAccessKeyId", "credentials are not accepted"),
        (404, "NoSuchBucket", "no such bucket"),
    ],
)
def test_a_store_that_refuses_is_one_line(s3, status, code, says):  # noqa: F811
    url = store("refused/a.json", b"{}")
    s3.fail(status, code)
    with pytest.raises(disk.DiskError, match=rf"{URL}/refused.*{says}") as caught:
        strict_json.read(url)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=rf"^--output={URL}/refused: .*{says}"):
        paths.check_output(f"--output={URL}/refused", f"{URL}/refused", "folder")


def test_numbers_of_steps_and_processes_are_no_status():
    for error in (UserError(f"{URL}/503: in use (503)"), ValueError(f"{URL}/checkpoints/403/x: ?")):
        assert store_faults.explain(error) is None
    tensorstore = f'NOT_FOUND: Error reading "{URL}/500/x": HTTP response code: 503 with body'
    assert store_faults.explain(ValueError(tensorstore)).startswith(f"{URL}/500/x: the store does")
    full = 'RESOURCE_EXHAUSTED: "kvstore":{"driver":"file"}: No space left on device'
    assert store_faults.explain(ValueError(full)) is None
    assert disk.refusal(ValueError(full)).errno == errno.ENOSPC


def test_a_slow_store_and_one_that_fails_once_are_waited_for(s3):  # noqa: F811
    url = store("slow/a.json", b'{"a": 1}')
    s3.seconds = 0.3
    answered = []

    def once(method, key):
        answered.append(key)
        return len(answered) == 1

    s3.fail(503, "SlowDown", once)
    assert strict_json.read(url) == {"a": 1} and len(answered) > 1


def test_no_credentials_and_no_package_are_one_line(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(stores.StoreError, match="no credentials; run"):
        stores.local(f"{URL}/anything")
    monkeypatch.setitem(stores.CLIENTS, "gs", ("no_such_package", "gcs"))
    with pytest.raises(UserError, match=r"pip install 'unityvideo_jax\[gcs\]'"):
        stores.local("gs://bucket/anything")
    with pytest.raises(UserError, match="no known store"):
        paths.check_output("--output", "http://bucket/out", "folder")


def test_one_process_holds_a_folder(monkeypatch):
    monkeypatch.setattr(store_lock, "EXPIRES", 0.5)
    monkeypatch.setattr(store_lock, "RENEWED", 0.1)
    folder = stores.place(f"{URL}/locked")
    record = lambda: json.loads(objects("locked")[".lock"])  # noqa: E731
    with store_lock.locked(folder):
        first = record()
        # As of another machine, since a lock of this very process counts as left over.
        with monkeypatch.context() as patch, pytest.raises(UserError, match="in use by process"):
            patch.setattr(store_lock.socket, "gethostname", lambda: "other")
            store_lock.locked(folder).__enter__()
        deadline = time.monotonic() + 120
        while record()["renewed"] == first["renewed"]:
            assert time.monotonic() < deadline
        store_lock.check(folder)
        # A renewal that is on its way would undo what the other process stores.
        held = store_lock._held[folder]
        held._ended.set()
        held._thread.join()
        store("locked/.lock", json.dumps({**first, "token": "another"}).encode())
        with pytest.raises(UserError, match="its lock was taken"):
            store_lock.check(folder)
    assert record()["token"] == "another"  # and is not deleted by who lost it
    dead = subprocess.Popen(["true"])
    dead.wait()
    for left in ({"process": dead.pid}, {"host": "elsewhere"}):
        store("locked/.lock", json.dumps({**first, "token": "another", **left}).encode())
        with store_lock.locked(folder):
            assert record()["token"] not in (first["token"], "another")
    assert not objects("locked")


def test_videos_of_a_table_are_read_from_where_it_lies(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    media.write_video(tmp_path / "a.mp4", frames, 8.0)
    film = (tmp_path / "a.mp4").read_bytes()
    store("table/films/a.mp4", film)
    other = store("elsewhere/b.mp4", film)
    table = store("table/clips.csv", f"video,prompt\nfilms/a.mp4,One.\n{other},Two.\n".encode())
    source = ManifestSource(table, ("rgb",), num_frames=5, height=32, width=32)
    assert [key.partition("-")[2] for key in source.keys] == ["a", "b"]
    np.testing.assert_array_equal(media.read(other).frames, media.read(tmp_path / "a.mp4").frames)
    with pytest.raises(UserError, match="mount the bucket"):
        DataConfig(dirs=(f"{URL}/shards",))


def test_a_checkpoint_that_is_moved_loses_its_mark_first(s3):  # noqa: F811
    for name in (stores.LAST, "params/x", f"params/{stores.LAST}"):
        store(f"moved/checkpoints/4/{name}", name.encode())
    source = stores.remote(f"{URL}/moved/checkpoints/4")
    stores.move(source, stores.remote(f"{URL}/moved/set_aside/4_1"))
    assert set(objects("moved")) == {
        "set_aside/4_1/params/x",
        f"set_aside/4_1/params/{stores.LAST}",
    }


def test_paths_of_a_file_of_requests_start_at_its_folder():
    line = {"mode": "estimation", "modality": "depth", "name": "one"}
    lines = [line | {"input": "films/a.mp4"}, line | {"input": f"{URL}/b.mp4", "name": "two"}]
    batch = store("asked/requests.jsonl", "\n".join(map(json.dumps, lines)).encode())
    one, two = requests.read_batch_file(batch, 0)
    store("asked/films/a.mp4", b"film")
    assert stores.local(one.given["rgb"]).read_bytes() == b"film"
    assert two.given == {"rgb": f"{URL}/b.mp4"}
