"""Zip files from strangers: whatever is in them, one sentence or exactly the members whose hashes are listed."""

import hashlib
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udx.build.bundle import write_bundle
from udx.errors import UdxError
from udx.runtime import bundle
from udx.runtime.bundle import MAGIC, SUMS, read_bundle, sums_of

MEMBERS = {"plan.json": b"{}", "segments/one.onnx": bytes(range(256)) * 3, "kernels/sm_80/k.ptx": b"ptx"}


def zipped(path: Path, members: dict[str, bytes], **options) -> Path:
    """Any zip file, with names and contents as given."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, options.get("compression"))
    return path


def with_sums(members: dict[str, bytes]) -> dict[str, bytes]:
    return {SUMS: sums_of(members)} | members


def test_what_was_written_is_read(tmp_path):
    write_bundle(tmp_path / "plan", MEMBERS)
    assert read_bundle(tmp_path / "plan") == MEMBERS
    assert (tmp_path / "plan").read_bytes().startswith(MAGIC)


def test_equal_members_give_equal_bytes_in_any_order(tmp_path):
    write_bundle(tmp_path / "one", MEMBERS)
    write_bundle(tmp_path / "two", dict(reversed(MEMBERS.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_common_tools_unpack_and_check_it(tmp_path):
    write_bundle(tmp_path / "plan", MEMBERS)
    with zipfile.ZipFile(tmp_path / "plan") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "out")
    done = subprocess.run(["sha256sum", "--check", SUMS], cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(MEMBERS)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../up", "a/../../up", "a/./b", "C:/x", "a\\b", "a//b", "folder/", ".hidden", "a b", "ä", ""],
)
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    path = zipped(tmp_path / "plan", with_sums(MEMBERS) | {name: b""})
    with pytest.raises(UdxError, match=r"has a member named .*, which a plan never has; do not trust it"):
        read_bundle(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = zipped(tmp_path / "plan", with_sums(MEMBERS))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("plan.json", b"[]")
    with pytest.raises(UdxError, match=r"two members named plan\.json; do not trust it"):
        read_bundle(path)


def test_compressed_members_are_refused_before_they_are_unpacked(tmp_path):
    bomb = with_sums(MEMBERS | {"segments/bomb": bytes(2**26)})
    path = zipped(tmp_path / "plan", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    with pytest.raises(UdxError, match="compressed or encrypted member SHA256SUMS; a plan only stores them"):
        read_bundle(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    """Many names for one place in the file: what they claim together is more than the file has."""
    path = zipped(tmp_path / "plan", with_sums({f"m{at}": bytes(3000) for at in range(3)}))
    content = bytearray(path.read_bytes())
    first = content.index(b"PK\x01\x02")
    entries = [at for at in range(first, len(content) - 4) if content[at : at + 4] == b"PK\x01\x02"]
    for at in entries:
        struct.pack_into("<II", content, at + 20, 5000, 5000)
    path.write_bytes(content)
    with pytest.raises(UdxError, match="claims members larger than itself; do not trust it"):
        read_bundle(path)


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "MAX_MEMBERS", 3)
    with pytest.raises(UdxError, match="has 4 members: not a plan of udx"):
        read_bundle(zipped(tmp_path / "plan", with_sums(MEMBERS)))


def test_a_file_that_is_too_large_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "MAX_BYTES", 2**30)
    with open(tmp_path / "plan", "wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(UdxError, match="larger than 1 GiB: not a plan of udx"):
        read_bundle(tmp_path / "plan")


def test_a_foreign_zip_is_no_plan(tmp_path):
    with pytest.raises(UdxError, match="is a zip file without SHA256SUMS, so no plan"):
        read_bundle(zipped(tmp_path / "photos.zip", MEMBERS))


def test_another_content_is_another_hash(tmp_path):
    changed = with_sums(MEMBERS) | {"plan.json": b"[]"}
    with pytest.raises(UdxError, match=r"is damaged: plan\.json is not what SHA256SUMS says"):
        read_bundle(zipped(tmp_path / "plan", changed))


def test_more_and_fewer_members_than_listed_are_refused(tmp_path):
    with pytest.raises(UdxError, match="is damaged: extra is not what SHA256SUMS says"):
        read_bundle(zipped(tmp_path / "more", with_sums(MEMBERS) | {"extra": b""}))
    fewer = {name: content for name, content in with_sums(MEMBERS).items() if name != "plan.json"}
    with pytest.raises(UdxError, match=r"lacks plan\.json, which SHA256SUMS lists"):
        read_bundle(zipped(tmp_path / "fewer", fewer))
    with pytest.raises(UdxError, match="holds a damaged SHA256SUMS"):
        read_bundle(zipped(tmp_path / "bad", MEMBERS | {SUMS: b"12  plan.json\n"}))


def test_a_missing_file_is_no_traceback(tmp_path):
    with pytest.raises(UdxError, match=r"cannot read .*: No such file"):
        read_bundle(tmp_path / "plan")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "plan"
    write_bundle(path, MEMBERS)
    return path.read_bytes()


def test_every_truncation_is_one_sentence(good, tmp_path):
    path = tmp_path / "plan"
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(UdxError):
            read_bundle(path)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=8))
def test_changed_bytes_are_one_sentence_or_change_nothing_that_is_read(good, tmp_path, changes):
    content = bytearray(good)
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "plan"
    path.write_bytes(content)
    try:
        members = read_bundle(path)
    except UdxError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        listed = sums_of(members).decode().split()[::2]
        assert listed == [hashlib.sha256(members[name]).hexdigest() for name in members]
        assert set(members) == set(MEMBERS)
