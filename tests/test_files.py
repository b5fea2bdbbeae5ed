"""Files are written whole or not at all, and read with care."""

import contextlib
import errno
import hashlib
import os
import re
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from udx import files as module
from udx.errors import UdxError
from udx.files import lock_file, read_bytes, read_json, replacing, sha256_of, write_json, write_text, write_with


@pytest.fixture(autouse=True)
def folders_not_looked_at_yet(monkeypatch):
    monkeypatch.setattr(module, "_cleaned", set())


def names_in(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with replacing(path) as partial:
        partial.write_text("new")
        assert partial.name == "file.txt"
        assert not path.exists()
    assert path.read_text() == "new"
    assert names_in(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(error), replacing(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file.txt"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UdxError, match=r"cannot write .*below\.txt: Not a directory; choose another path"):
        write_text(tmp_path / "file" / "below.txt", "")


def test_the_longest_name_that_a_file_system_takes(tmp_path):
    path = tmp_path / ("ä" * 125 + ".json")  # 255 bytes
    write_json(path, [1])
    assert read_json(path) == [1]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_the_umask(tmp_path, umask, mode):
    def as_libraries_do(partial):
        """A file that only the owner can read, under another name first."""
        beside = partial.with_name(".tmp")
        os.close(os.open(beside, os.O_CREAT | os.O_WRONLY, 0o600))
        beside.replace(partial)

    before = os.umask(umask)
    try:
        write_with(tmp_path / "file", as_libraries_do)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_the_folder_is_made_durable_after_the_rename(tmp_path, monkeypatch):
    synced = []
    named = Path("/proc/self/fd")
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((str((named / str(fd)).readlink()), names_in(tmp_path))))
    write_text(tmp_path / "file", "x")
    (partial, before), (folder, after) = synced
    assert partial.endswith("/file") and "file" not in before
    assert (folder, after[-1]) == (str(tmp_path), "file")


# What is no regular file stays what it is.


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "old.json").write_text("old")
    (tmp_path / "link.json").symlink_to("store/old.json")
    (tmp_path / "link of link.json").symlink_to("link.json")
    write_text(tmp_path / "link of link.json", "new")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "link of link.json").is_symlink()
    assert (tmp_path / "store" / "old.json").read_text() == "new"
    assert names_in(tmp_path / "store") == ["old.json"]


def test_a_link_to_nothing_gets_its_target(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "deep" / "target.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "deep" / "target.json").read_text() == "new"


def test_links_in_a_circle_are_one_sentence(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UdxError, match=r"cannot write .*symbolic links; choose another path"):
        write_text(tmp_path / "a", "new")


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UdxError, match="Is a directory; choose another path"):
        write_text(tmp_path / "folder", "new")


def test_the_reader_of_a_fifo_gets_everything(tmp_path):
    fifo, text = tmp_path / "fifo", "x" * 300_000
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(fifo.read_text)
        write_text(fifo, text)
        assert read.result(timeout=60) == text
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert names_in(tmp_path) == ["fifo"]


def test_a_device_takes_what_is_written_and_stays(tmp_path):
    """A terminal of the test's own stands for /dev/null and its like."""
    controller, terminal = os.openpty()
    try:
        name = Path(os.ttyname(terminal))
        before = name.stat()
        (tmp_path / "link").symlink_to(name)
        for path in (name, tmp_path / "link"):
            write_text(path, "hello")
            assert os.read(controller, 100) == b"hello"
        assert os.path.samestat(before, name.stat())
    finally:
        os.close(controller)
        os.close(terminal)


def test_a_device_that_takes_nothing_is_one_sentence(tmp_path):
    """A private link to a descriptor of /dev/full: the device itself is never named as an output."""
    with open("/dev/full", "wb") as full, pytest.raises(UdxError, match="No space left on device; free some space"):
        write_text(Path(f"/proc/self/fd/{full.fileno()}"), "new")


def test_a_disk_is_refused(tmp_path, monkeypatch):
    real = Path.stat
    disk = os.stat_result((stat.S_IFBLK | 0o660, *[0] * 9))
    monkeypatch.setattr(Path, "stat", lambda path, **how: disk if path.name == "disk" else real(path, **how))
    with pytest.raises(UdxError, match="it is a disk"):
        write_text(tmp_path / "disk", "new")
    assert names_in(tmp_path) == []


OUTPUT = "from pathlib import Path; from udx.files import write_text; print('before'); "
OUTPUT += "write_text(Path('{}'), 'in the middle'); print('after')"


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_may_be_a_file_or_a_pipe(tmp_path, path):
    command = [sys.executable, "-c", OUTPUT.format(path)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "before\nin the middleafter\n"
    with open(tmp_path / "file", "w") as sink:
        assert subprocess.run(command, stdout=sink).returncode == 0
    assert (tmp_path / "file").read_text() == "before\nin the middleafter\n"


def test_a_process_substitution_gets_its_file(tmp_path):
    write = "from pathlib import Path; import sys; from udx.files import write_json; write_json(Path(sys.argv[1]), [1])"
    script = f'"{sys.executable}" -c "{write}" >(cat > "{tmp_path}/copy")'
    subprocess.run(["bash", "-c", script], check=True)
    until(lambda: (tmp_path / "copy").exists() and (tmp_path / "copy").read_text() == "[\n  1\n]\n")


def until(true, timeout_s=60.0):
    """Wait for something that another process does."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


# Several at once, and processes that were killed.


def write_often(path: Path, letter: str, times: int = 40) -> None:
    for _ in range(times):
        write_text(path, letter * 50_000)


def test_threads_and_processes_never_tear_a_file(tmp_path, monkeypatch):
    """In two containers both processes have the number 1: here all of them have."""
    path = tmp_path / "file"
    monkeypatch.setattr(os, "getpid", lambda: 1)
    writers = [threading.Thread(target=write_often, args=(path, letter)) for letter in "abcd"]
    processes = [get_context("fork").Process(target=write_often, args=(path, letter)) for letter in "ef"]
    for writer in (*processes, *writers):
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in (*processes, *writers)):
        with contextlib.suppress(FileNotFoundError):
            seen.add(path.read_text())
    for writer in (*processes, *writers):
        writer.join()
    assert [process.exitcode for process in processes] == [0, 0]
    seen.add(path.read_text())
    assert all(len(text) == 50_000 and len(set(text)) == 1 for text in seen)
    assert names_in(tmp_path) == ["file"]


KILLED = """
import os, signal, sys
from pathlib import Path
from udx.files import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("ready", flush=True)
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(tmp_path):
    alive = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "other.pt"), "live"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert alive.stdout.readline() == b"ready\n"
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "state.pt"), "die"], stdout=subprocess.DEVNULL)
    dead, living = sorted(tmp_path.iterdir(), key=lambda folder: not (folder / "state.pt").exists())
    assert (dead / "state.pt").exists() and (living / "other.pt").exists()
    # Of another machine, and one that is about to be locked: what is fresh there may be in use.
    foreign, unlocked = tmp_path / f".udx-{'0' * 8}-{'1' * 16}.part", living.with_suffix(".new")
    precious = tmp_path / ".udx-precious.part"
    for folder in (foreign, unlocked, precious):
        folder.mkdir()
    write_text(tmp_path / "state.pt", "whole")
    assert not dead.exists()
    assert {foreign, unlocked, precious, living} < set(tmp_path.iterdir())
    for folder in (foreign, unlocked, precious, living):
        os.utime(folder, (0, 0))
    module._cleaned.clear()
    write_text(tmp_path / "state.pt", "whole")
    assert set(tmp_path.iterdir()) == {living, precious, tmp_path / "state.pt"}
    alive.communicate(b"")
    assert (tmp_path / "other.pt").read_text() == "half"


def test_one_process_holds_a_lock(tmp_path):
    path = tmp_path / "lock"
    with lock_file(path) as first:
        assert first and path.exists()
        with lock_file(path) as second:
            assert not second
        assert path.exists()
    assert not path.exists()
    with lock_file(path) as again:
        assert again


def test_who_waits_gets_the_lock_when_the_other_is_done(tmp_path):
    path, waited, order = tmp_path / "lock", threading.Event(), []

    def second():
        with lock_file(path, wait=waited.set, interval_s=0.01) as held:
            order.append("second")
            assert held and path.exists()

    with ThreadPoolExecutor(1) as pool:
        with lock_file(path):
            follower = pool.submit(second)
            assert waited.wait(60)
            order.append("first")
        follower.result(timeout=60)
    assert order == ["first", "second"]
    assert not path.exists()


def test_without_locks_everybody_goes_on(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", no_locks)
    with lock_file(tmp_path / "lock") as held:
        assert held
    write_text(tmp_path / "file", "x")
    assert names_in(tmp_path) == ["file"]


# Reading.


def test_json_comes_back_and_nan_is_refused(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_is_none_is_told(tmp_path, number):
    (tmp_path / "a.json").write_text(f'{{"a": [{number}]}}')
    with pytest.raises(UdxError, match=rf"a\.json is not valid JSON \(it holds {re.escape(number)}, which"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, '{"a": 1' + "0" * 5000 + "}", "\x00", '"\xff'])
def test_bad_json_names_the_file(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(UdxError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UdxError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")


def test_a_name_that_is_not_utf8_can_be_written_about(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / "page.html", f"of {name}")
    assert (tmp_path / "page.html").read_text() == r"of caf\udce9"
    write_json(tmp_path / name, {"root": name})
    assert read_json(tmp_path / name) == {"root": name}


def test_a_file_that_is_too_large_takes_no_memory(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UdxError, match=r"huge is larger than 64 MiB: not a file udx reads"):
        read_json(tmp_path / "huge")
    with pytest.raises(UdxError, match=r"zero is larger than 1 KiB"):
        (tmp_path / "zero").symlink_to("/dev/zero")
        read_bytes(tmp_path / "zero", 1024)
    (tmp_path / "fits").write_bytes(b"x" * 1024)
    assert len(read_bytes(tmp_path / "fits", 1024)) == 1024


def test_a_fifo_that_nobody_writes_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UdxError, match="is not valid JSON"):
        read_json(tmp_path / "fifo")


def test_a_fifo_that_somebody_writes_is_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit((tmp_path / "fifo").write_text, "[1]")
        until(lambda: _is_open_for_writing(tmp_path / "fifo", written))
        assert read_json(tmp_path / "fifo") == [1]


def _is_open_for_writing(fifo, written):
    """Open the FIFO so that its writer gets through its own opening; it has then written, for the text is short."""
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    written.result(timeout=60)
    _is_open_for_writing.keep = descriptor  # closing it would throw away what was written
    return True


def test_the_digest_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"udx")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"udx").hexdigest()
