"""One contract for every store: a folder, moto and a real S3 server; then what is special to each."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.config import StoreConfig
from assetmill.records import blob_key
from assetmill.storage import folder, layout, s3
from assetmill.storage.store import (
    CorruptObject,
    MissingObject,
    Store,
    StoreRefused,
    StoreUnavailable,
    get_blob,
    open_store,
    put_blob,
    set_aside,
)
from fixtures_s3 import make_bucket
from servers.faulty_proxy import Faults, faulty_proxy

KINDS = ["folder", "moto", pytest.param("ceph", marks=pytest.mark.s3)]
BUCKETS = ["moto", pytest.param("ceph", marks=pytest.mark.s3)]


@pytest.fixture
def config(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> StoreConfig:
    if kind == "folder":
        return StoreConfig(url=str(tmp_path / "store"))
    return make_bucket(request.getfixturevalue(f"{kind}_endpoint"))


@pytest.fixture
def store(config: StoreConfig) -> Store:
    return open_store(config, config.url)


def race(num: int, call: Callable[[int], object]) -> list[object]:
    """Results of `num` threads that call at the same moment."""
    barrier = threading.Barrier(num)

    def start(i: int) -> object:
        barrier.wait()
        return call(i)

    with ThreadPoolExecutor(num) as pool:
        return list(pool.map(start, range(num)))


# --- the contract -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
class TestEveryStore:
    def test_what_was_put_is_got(self, store: Store) -> None:
        """Bytes come back as they went in: empty, binary and large ones, under any valid key."""
        cases = {
            "empty.bin": b"",
            "a/b.bin": bytes(range(256)),
            "ü é/+%41 ?#.x": b"odd",
            "big.bin": os.urandom(3 << 20),
        }
        for key, data in cases.items():
            assert store.put_if_absent(key, data) is True
            assert store.get(key) == data
            info = store.stat(key)
            assert info is not None
            assert (info.key, info.size) == (key, len(data))
            assert abs(info.modified - time.time()) < 60

    def test_what_a_browser_is_told_changes_no_bytes(self, store: Store) -> None:
        """A media type and a cache header may go with an object; they are no part of it."""
        assert store.put_if_absent("a.png", b"1", media_type="image/png", cache_control="public, max-age=60")
        assert store.get("a.png") == b"1"

    def test_the_first_one_wins(self, store: Store) -> None:
        """put_if_absent of a taken key is False and changes nothing."""
        assert store.put_if_absent("k", b"first")
        before = store.stat("k")
        assert store.put_if_absent("k", b"second") is False
        assert store.put_if_absent("k", b"first") is False  # also with equal bytes: we did not make it
        assert store.get("k") == b"first"
        assert store.stat("k") == before

    def test_of_twenty_racing_writers_one_wins(self, store: Store) -> None:
        """Exactly one of 20 threads is told True, and the object holds that thread's bytes."""
        for n in range(3):
            won = race(20, lambda i, n=n: store.put_if_absent(f"race/{n}.json", b"%d" % i * 500))
            assert won.count(True) == 1
            assert store.get(f"race/{n}.json") == b"%d" % won.index(True) * 500

    def test_of_twenty_racing_swaps_one_wins(self, store: Store) -> None:
        """Compare-and-swap lets exactly one of those through who saw the same version."""
        store.put_if_absent("locks/a.json", b"start")
        for n in range(3):
            seen = store.stat("locks/a.json")
            assert seen is not None
            won = race(20, lambda i, v=seen.version, n=n: store.swap("locks/a.json", b"%d-%02d" % (n, i), expected=v))
            assert won.count(True) == 1
            assert store.get("locks/a.json") == b"%d-%02d" % (n, won.index(True))

    def test_a_counter_over_swap_loses_nothing(self, store: Store) -> None:
        """Threads that add to a number by swap until it works end with the right sum, however close in time."""
        store.put_if_absent("locks/n.json", b"00 nobody")

        def add(who: int) -> None:
            for _ in range(3):
                while True:
                    info = store.stat("locks/n.json")
                    value = int(store.get("locks/n.json").split()[0])
                    assert info is not None
                    # Signed, as locks are: after a lost answer the same bytes by another would pass for one's own.
                    if store.swap("locks/n.json", b"%02d %d" % (value + 1, who), expected=info.version):
                        break

        race(4, add)
        assert store.get("locks/n.json").startswith(b"12 ")

    def test_swap_of_a_missing_or_changed_object_is_refused(self, store: Store) -> None:
        """A swap needs the version it expects: an old one, or none at all, is False and changes nothing."""
        assert store.swap("locks/x.json", b"1", expected="0" * 32) is False
        store.put_if_absent("locks/x.json", b"1")
        old = store.stat("locks/x.json")
        assert old is not None
        store.replace("locks/x.json", b"2")
        assert store.swap("locks/x.json", b"3", expected=old.version) is False
        assert store.get("locks/x.json") == b"2"

    def test_replace_makes_and_overwrites(self, store: Store) -> None:
        """replace works on a new and on a taken key, and gives a new version."""
        store.replace("latest.json", b"1", media_type="application/json")
        one = store.stat("latest.json")
        store.replace("latest.json", b"2", media_type="application/json")
        two = store.stat("latest.json")
        assert store.get("latest.json") == b"2"
        assert one is not None
        assert two is not None
        assert one.version != two.version

    def test_what_is_missing_says_so(self, store: Store) -> None:
        """get names key and store, stat is None, delete does nothing, a list is empty."""
        with pytest.raises(MissingObject, match=r"no/such\.png is not in the store") as raised:
            store.get("no/such.png")
        assert raised.value.key == "no/such.png"
        assert store.stat("no/such.png") is None
        store.delete("no/such.png")
        assert list(store.list("no/")) == []

    def test_what_is_deleted_is_gone_and_can_be_put_again(self, store: Store) -> None:
        """delete frees the key."""
        store.put_if_absent("a/b", b"1")
        store.delete("a/b")
        assert store.stat("a/b") is None
        assert store.put_if_absent("a/b", b"2")
        assert store.get("a/b") == b"2"

    def test_a_list_is_in_byte_order_and_by_text_prefix(self, store: Store) -> None:
        """Keys come in the order of their UTF-8 bytes, below any text that begins them."""
        keys = ["a-b/x", "a/x", "a0/x", "aZ", "ab", "b/1", "b/10", "b/2", "z/é", "z/e", "é"]
        for key in keys:
            store.put_if_absent(key, key.encode())
        for prefix in ("", "a", "a/", "a-", "b/1", "z/", "nothing"):
            found = list(store.list(prefix))
            assert [i.key for i in found] == sorted((k for k in keys if k.startswith(prefix)), key=str.encode), prefix
            assert all(store.stat(i.key).version == i.version for i in found)  # type: ignore[union-attr]
            assert all(i.size == len(i.key.encode()) for i in found)

    def test_two_prefixes_are_two_stores(self, config: StoreConfig, store: Store) -> None:
        """Stores beside one another don't see each other's objects."""
        beside = open_store(config, f"{config.url}-2")
        store.put_if_absent("k", b"1")
        assert beside.stat("k") is None
        assert beside.put_if_absent("k", b"2")
        assert [i.key for i in store.list("")] == ["k"]

    @pytest.mark.parametrize("key", ["../x", "/x", "a\0b", ".assetmill/tmp/x", "x" * 1025, "a//b", ""])
    def test_bad_keys_never_reach_the_store(self, store: Store, key: str) -> None:
        """Every method refuses a key that some store could not hold, with the way out."""
        for call in (
            store.get,
            store.stat,
            store.delete,
            store.local_path,
            lambda k: store.put_if_absent(k, b""),
            lambda k: store.replace(k, b""),
            lambda k: list(store.list(f"{k}/")),
        ):
            with pytest.raises(ValueError, match="safe_name"):
                call(key)

    def test_opening_leaves_nothing_behind(self, store: Store) -> None:
        """The probe cleans up after itself."""
        assert list(store.list("")) == []

    def test_blobs_are_named_by_their_bytes(self, store: Store) -> None:
        """put_blob is idempotent, get_blob gives the bytes back."""
        data = os.urandom(2000)
        sha = put_blob(store, data, "png", "image/png")
        assert sha == blob_key(data) == put_blob(store, data, "png", "image/png")
        assert get_blob(store, sha, "png") == data
        assert [i.key for i in store.list("")] == [layout.blob_path(sha, "png")]

    @pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: bytes([d[0] ^ 1]) + d[1:], lambda d: b""])
    def test_a_corrupt_blob_is_found_and_healed(self, store: Store, damage: Callable[[bytes], bytes]) -> None:
        """A truncated or flipped blob raises on reading; making it again sets the bad bytes aside and heals it."""
        data = os.urandom(500)
        sha = put_blob(store, data, "png", "image/png")
        key = layout.blob_path(sha, "png")
        store.replace(key, damage(data))
        with pytest.raises(CorruptObject, match=key):
            get_blob(store, sha, "png")
        assert put_blob(store, data, "png", "image/png") == sha
        assert get_blob(store, sha, "png") == data
        (aside,) = store.list("aside/")
        assert store.get(aside.key) == damage(data)

    def test_set_aside_of_nothing_is_none(self, store: Store) -> None:
        """Setting aside what is not there does nothing."""
        assert set_aside(store, "gone.jsonl") is None
        assert list(store.list("")) == []


# --- folders ------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def open_at(root: Path, **options: str) -> folder.FolderStore:
    return folder.open_folder(StoreConfig(url=str(root), options=options), root)


@given(
    st.lists(st.text(alphabet="ab/-.0é", min_size=1, max_size=6), unique=True, max_size=8), st.text("ab/-", max_size=3)
)
@settings(max_examples=40)
def test_a_folder_lists_like_a_bucket(tmp_path_factory: pytest.TempPathFactory, keys: list[str], prefix: str) -> None:
    """For any set of valid keys and any prefix, a folder lists what a flat, sorted key space would."""
    store = open_at(tmp_path_factory.mktemp("list"), durability="process")
    held = []
    for key in keys:
        try:
            assert store.put_if_absent(key, b"")
            held.append(key)
        except ValueError:  # no valid key, or in the way of another
            continue
    try:
        found = [i.key for i in store.list(prefix)]
    except ValueError:
        return
    assert found == sorted((k for k in held if k.startswith(prefix)), key=str.encode)


def test_a_folder_shows_people_its_files(root: Path) -> None:
    """local_path is the object's file; a file:// URL opens the same folder."""
    store = open_store(StoreConfig(), f"file://{root}")
    store.put_if_absent("a/b.png", b"1")
    path = store.local_path("a/b.png")
    assert path == root / "a/b.png"
    assert path.read_bytes() == b"1"
    assert store.url == str(root)


def test_a_key_that_is_a_folder_of_another_is_refused(root: Path) -> None:
    """`a` beside `a/b` has no room in a file system, in whichever order, and says so."""
    store = open_at(root)
    store.put_if_absent("a/b", b"1")
    store.put_if_absent("c", b"1")
    for key in ("a", "c/d"):
        for call in (store.put_if_absent, store.replace):
            with pytest.raises(ValueError, match="folder of another"):
                call(key, b"2")
    with pytest.raises(MissingObject):
        store.get("a")
    assert store.stat("a") is None
    assert not list((root / ".assetmill/tmp").iterdir())


def test_a_full_disk_leaves_nothing_partial(tmp_path: Path) -> None:
    """On a full disk a put fails with the way out, no part of it is visible, and it works again after tidying up."""
    root = tmp_path / "small"
    root.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", root], check=False).returncode:
        pytest.skip("a 4 MB file system cannot be mounted here (needs root)")
    try:
        store = open_at(root)
        written = [f"blobs/{i}.png" for i in range(5)]
        for key in written:
            store.put_if_absent(key, os.urandom(700_000))
        failed = "blobs/5.png"
        with pytest.raises(StoreUnavailable, match=r"No space left.*run again: it resumes"):
            store.put_if_absent(failed, os.urandom(700_000))
        with pytest.raises(StoreUnavailable):
            store.replace(written[0], os.urandom(700_000))
        assert [i.key for i in store.list("")] == written
        assert all(i.size == 700_000 for i in store.list(""))
        assert not list((root / ".assetmill/tmp").iterdir())
        store.delete(written[0])
        assert store.put_if_absent(failed, os.urandom(700_000))
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_failing_write_leaves_nothing_partial(root: Path) -> None:
    """The same without a small disk: a write that stops half-way (a limit on file sizes) leaves no trace."""
    code = f"""
import resource, sys
from pathlib import Path
from assetmill.storage.folder import FolderStore
from assetmill.storage.store import StoreUnavailable
store = FolderStore({str(root)!r})
store.prepare()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store.put_if_absent("small.png", b"x" * 1000)
for write in (store.put_if_absent, store.replace):
    try:
        write("large.json", b"x" * 200_000)
    except StoreUnavailable as error:
        assert "ulimit" in str(error), error
    else:
        sys.exit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    files = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
    assert sorted(f for f in files if f != ".assetmill/mutex") == ["small.png"]


def test_a_killed_writer_leaves_only_whole_objects(root: Path) -> None:
    """SIGKILL at random moments: whatever is listed afterwards has the bytes its name says."""
    open_at(root)
    code = f"""
import os
from pathlib import Path
from assetmill.storage.folder import FolderStore
from assetmill.storage.store import put_blob
store = FolderStore({str(root)!r})
print("up", flush=True)
while True:
    put_blob(store, os.urandom(400_000), "png", "image/png")
    store.replace("latest.json", b"[" + b"1," * 100_000 + b"1]")
"""
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(random.uniform(0.01, 0.15))
            process.send_signal(signal.SIGKILL)
    store = open_at(root)
    shas = [i.key.split("/")[-1].removesuffix(".png") for i in store.list("blobs/")]
    assert shas
    for sha in shas:
        assert len(get_blob(store, sha, "png")) == 400_000
    assert len(store.get("latest.json")) == 200_003


def test_what_dead_writers_left_is_swept_a_day_later(root: Path) -> None:
    """Opening removes temporary files older than a day, and no younger one."""
    open_at(root)
    old, young = root / ".assetmill/tmp/old", root / ".assetmill/tmp/young"
    old.write_bytes(b"1")
    young.write_bytes(b"1")
    os.utime(old, (time.time() - 90_000,) * 2)
    open_at(root)
    assert not old.exists()
    assert young.exists()


def test_pictures_are_synced_before_the_record_that_names_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power loss: at the moment a record appears, its pictures, their folders and itself were synced."""
    store = open_at(root)
    synced: list[str] = []
    real_fsync, real_link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real_fsync(fd))[1])

    def link(source: str, target: str) -> None:
        if target.endswith(".jsonl"):
            synced.append("LINK")
        real_link(source, target)

    monkeypatch.setattr(os, "link", link)
    store.put_if_absent("blobs/aa/1.png", b"1")
    store.put_if_absent("blobs/bb/2.png", b"2")
    store.put_if_absent("blobs/bb/2.png", b"2")
    assert synced == []
    store.put_if_absent("records/c/k/000001.jsonl", b"{}")
    linked = max(i for i, what in enumerate(synced) if what == "LINK")
    before = synced[:linked]
    for name in ("blobs/aa/1.png", "blobs/bb/2.png", "blobs/aa", "blobs/bb", "blobs"):
        assert str(root / name) in before
    assert any("/.assetmill/tmp/" in path for path in before)  # the record's own bytes
    assert str(root / "records/c/k") in synced[linked:]
    synced.clear()
    store.put_if_absent("records/c/k/000002.jsonl", b"{}")
    assert not any(path.endswith(".png") for path in synced)  # once is enough
    synced.clear()
    store.replace("locks/c.json", b"{}")
    assert synced == []


def test_a_scratch_folder_syncs_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`durability: process` trades safety from power loss for speed."""
    monkeypatch.setattr(os, "fsync", lambda fd: pytest.fail("synced"))
    store = open_at(root, durability="process")
    assert store.put_if_absent("blobs/1.png", b"1")
    assert store.put_if_absent("records/c/k/1.jsonl", b"1")
    store.replace("latest.json", b"1")


def test_a_file_system_without_hard_links_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where put-if-absent cannot be had (FAT, some network drives), opening says so and what to use."""
    import errno

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreRefused, match=r"no hard links.*s3://"):
        open_at(root)


def test_wrong_options_and_places_are_refused_with_the_way_out(tmp_path: Path) -> None:
    """Typos in store.options, unknown schemes and files in the way are told before anything is stored."""
    with pytest.raises(StoreRefused, match="knows only 'durability'"):
        open_at(tmp_path / "a", ServerSideEncryption="AES256")
    with pytest.raises(StoreRefused, match="give 'power'"):
        open_at(tmp_path / "a", durability="high")
    with pytest.raises(StoreRefused, match="s3://bucket/prefix"):
        open_store(StoreConfig(), "gs://bucket/x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="not a folder"):
        open_at(tmp_path / "file")


def test_reading_only_makes_nothing(root: Path) -> None:
    """A reader of a store that isn't there sees nothing and makes nothing."""
    store = folder.open_folder(StoreConfig(), root, read_only=True)
    assert list(store.list("")) == []
    assert store.stat("x") is None
    assert not root.exists()


# --- buckets ------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without their waits: botocore's back-off is not what is tested."""
    monkeypatch.setattr(s3, "pause", lambda attempt: None)
    monkeypatch.setattr(
        "botocore.retries.standard.RetryHandler.compute_retry_delay", lambda self, context: 0, raising=False
    )
    monkeypatch.setattr("botocore.retries.standard.RetryPolicy.compute_retry_delay", lambda self, context: 0)


@pytest.fixture
def proxied(
    request: pytest.FixtureRequest, kind: str, quick: None
) -> Iterator[tuple[StoreConfig, Faults]]:  # fmt: skip
    endpoint = request.getfixturevalue(f"{kind}_endpoint")
    made = make_bucket(endpoint)
    with faulty_proxy(endpoint.url) as (url, faults):
        yield made.model_copy(update={"endpoint_url": url}), faults


@pytest.mark.parametrize("kind", BUCKETS)
class TestFaultyServer:
    def test_a_lost_answer_is_no_failure(self, proxied: tuple[StoreConfig, Faults]) -> None:
        """The PUT landed, its answer was lost, the retry found the key taken: read back, equal, so it is ours."""
        config, faults = proxied
        store = open_store(config, config.url)
        faults.on_put = ["lose"]
        before = faults.forwarded
        assert store.put_if_absent("a.json", b"ours") is True
        assert faults.forwarded == before + 2
        faults.on_put = ["lose"]
        assert store.put_if_absent("a.json", b"other") is False
        assert store.get("a.json") == b"ours"

    def test_a_lost_answer_to_a_swap_is_no_failure(self, proxied: tuple[StoreConfig, Faults]) -> None:
        """The same for compare-and-swap: our new bytes are there, so the swap was done."""
        config, faults = proxied
        store = open_store(config, config.url)
        store.put_if_absent("locks/a.json", b"1")
        seen = store.stat("locks/a.json")
        assert seen is not None
        faults.on_put = ["lose"]
        assert store.swap("locks/a.json", b"2", expected=seen.version) is True
        faults.on_put = ["lose"]
        assert store.swap("locks/a.json", b"3", expected=seen.version) is False
        assert store.get("locks/a.json") == b"2"

    def test_refusals_are_tried_again_and_not_forever(self, proxied: tuple[StoreConfig, Faults]) -> None:
        """503 and 409 are retried; a server that goes on refusing is unavailable after bounded tries."""
        config, faults = proxied
        store = open_store(config, config.url)
        faults.on_put = ["503", "409", "503", "409"]
        assert store.put_if_absent("a", b"1") is True
        for refusal in ("503", "409"):
            faults.on_put = [refusal] * 100
            with pytest.raises(StoreUnavailable, match="run again: it resumes"):
                store.put_if_absent("b", b"1")
            assert len(faults.on_put) >= 75, "at most 25 tries"
            faults.on_put = []
        assert store.stat("b") is None

    def test_bytes_broken_on_their_way_are_sent_again(self, proxied: tuple[StoreConfig, Faults]) -> None:
        """An upload that arrives changed is found by checksum, removed and sent again."""
        config, faults = proxied
        store = open_store(config, config.url)
        data = os.urandom(1000)
        faults.on_put = ["break"]
        assert store.put_if_absent("a", data) is True
        assert store.get("a") == data
        faults.on_put = ["break"]
        store.replace("a", data[::-1])
        assert store.get("a") == data[::-1]

    def test_a_download_that_breaks_off_is_tried_again(self, proxied: tuple[StoreConfig, Faults]) -> None:
        """Half an answer is not an object."""
        config, faults = proxied
        store = open_store(config, config.url)
        data = os.urandom(100_000)
        store.put_if_absent("a", data)
        faults.on_get = ["cut", "cut"]
        assert store.get("a") == data
        faults.on_get = ["cut"] * 50
        with pytest.raises(StoreUnavailable):
            store.get("a")

    def test_the_probe_runs_once_per_process(self, proxied: tuple[StoreConfig, Faults]) -> None:
        """Opening the same store again costs no request, and both share one client."""
        config, faults = proxied
        one = open_store(config, config.url)
        before = faults.forwarded
        two = open_store(config, config.url)
        assert faults.forwarded == before
        assert one._client is two._client  # type: ignore[attr-defined]
        one.put_if_absent("locks/a.json", b"1")
        seen = two.stat("locks/a.json")
        assert seen is not None
        assert two.swap("locks/a.json", b"2", expected=seen.version)


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_list_of_many_pages_is_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """More objects than one page holds are all listed, once, in order."""
    keys = [f"many/{i:02}" for i in range(11)]
    for key in keys:
        store.put_if_absent(key, b"")
    for page in (1, 3, 10, 11):
        monkeypatch.setattr(s3, "PAGE", page)
        assert [info.key for info in store.list("many/")] == keys


@pytest.mark.parametrize("kind", ["moto"])  # a real server's signatures notice when a proxy takes headers away
@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
def test_a_server_that_ignores_preconditions_is_refused(proxied: tuple[StoreConfig, Faults], header: str) -> None:
    """Opening for writing refuses a server that would overwrite, names it and the way out; the probe is removed."""
    config, faults = proxied
    faults.ignore = (header,)
    with pytest.raises(StoreRefused, match=r"does not keep to conditional writes.*use one that does"):
        open_store(config, config.url)
    faults.ignore = ()
    assert list(open_store(config, config.url).list("")) == []


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_missing_bucket_names_the_way_out(config: StoreConfig) -> None:
    """Opening a bucket that does not exist says which and where."""
    for read_only in (False, True):
        with pytest.raises(StoreUnavailable, match=r"no-such-bucket.*127\.0\.0\.1.*create the bucket"):
            open_store(config, "s3://no-such-bucket/x", read_only=read_only)


@pytest.mark.s3
def test_wrong_credentials_are_told_and_renewed_ones_work(ceph_endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server refuses wrong credentials: the error says so, and the work goes on once they are right."""
    config = make_bucket(ceph_endpoint)
    with monkeypatch.context() as wrong:
        wrong.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
        s3._client.cache_clear()
        with pytest.raises(StoreUnavailable, match="check the credentials") as raised:
            open_store(config, config.url)
        assert "canary" not in str(raised.value)
    s3._client.cache_clear()
    assert open_store(config, config.url).put_if_absent("a", b"1")


def test_no_credentials_and_no_server_name_the_way_out(
    s3_environment: None, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """A server that is down and a machine without credentials are told apart."""
    config = StoreConfig(url="s3://bucket/x", endpoint_url="http://127.0.0.1:9", region="us-east-1")
    with pytest.raises(StoreUnavailable, match=r"s3://bucket/x.*127\.0\.0\.1:9.*check store\.endpoint_url"):
        open_store(config, config.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3._client.cache_clear()
    with pytest.raises(StoreUnavailable, match="AWS_ACCESS_KEY_ID"):
        open_store(config, config.url)
    s3._client.cache_clear()
    with pytest.raises(StoreUnavailable, match=r"store\.profile"):
        open_store(config.model_copy(update={"profile": "nobody"}), config.url)


def test_put_options_reach_the_server_and_typos_do_not(moto_endpoint) -> None:
    """store.options are put_object's own: a known one is applied, an unknown one or one of ours is refused."""
    config = make_bucket(moto_endpoint).model_copy(
        update={"options": {"ServerSideEncryption": "AES256", "BucketKeyEnabled": "true", "CacheControl": "no-store"}}
    )
    store = open_store(config, config.url)
    store.put_if_absent("a.png", b"1", media_type="image/png")
    found = store._client.head_object(Bucket=store._bucket, Key="pre/fix/a.png")  # type: ignore[attr-defined]
    assert found["ServerSideEncryption"] == "AES256"
    assert found["ContentType"] == "image/png"
    assert found["CacheControl"] == "no-store"
    for wrong in ({"ServerSideEncription": "AES256"}, {"IfMatch": "x"}, {"BucketKeyEnabled": "yes"}):
        with pytest.raises(StoreRefused, match=r"store\.options"):
            open_store(config.model_copy(update={"options": wrong}), config.url)


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://key:secret@bucket/x"])
def test_bucket_urls_hold_a_bucket_and_no_credentials(s3_environment: None, url: str) -> None:
    """Credentials in a URL are refused without repeating them."""
    with pytest.raises(StoreRefused) as raised:
        open_store(StoreConfig(region="us-east-1"), url)
    assert "secret" not in str(raised.value).replace("SECRET", "")
    with pytest.raises(StoreRefused, match="endpoint_url holds credentials"):
        open_store(StoreConfig(endpoint_url="http://key:s@host"), "s3://bucket")


def test_too_large_an_object_is_refused(moto_endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one PUT cannot carry is refused before it is sent."""
    config = make_bucket(moto_endpoint)
    store = open_store(config, config.url)
    monkeypatch.setattr(s3, "MAX_OBJECT_BYTES", 10)
    with pytest.raises(ValueError, match="at most 10"):
        store.put_if_absent("a", b"x" * 11)
