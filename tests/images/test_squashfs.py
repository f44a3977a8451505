"""Looking into squashfs images that are not mounted: the same tree as on disk, and nothing that a hostile one wants."""
from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containers.features import need
from dunnage.errors import IMAGE, DunnageError
from dunnage.host.tree import DiskTree
from dunnage.image import directory, inflate
from dunnage.image.squashfs import Inode, Squashfs, Unsupported
from images.squashing import COMPRESSORS, FIELDS, PLAIN, change, field, metadata, opened, squash

pytestmark = pytest.mark.usefixtures("squashfs_tools")

SOURCES = Path(directory.__file__).resolve().parents[2]


def fill(top: Path) -> Path:
    """One of everything that an image can hold and an ordinary user can make."""
    (top / "etc").mkdir(parents=True)
    (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (top / "etc/mtab").symlink_to("/proc/mounts")
    (top / "usr/bin").mkdir(parents=True)
    (top / "usr/bin/env").write_bytes(os.urandom(300_000))
    (top / "usr/bin/env").chmod(0o755)
    (top / "bin").symlink_to("usr/bin")
    (top / "empty").mkdir(0o700)
    (top / "none").write_bytes(b"")
    with (top / "sparse").open("wb") as file:
        file.seek(400_000)
        file.write(b"end")
    os.link(top / "usr/bin/env", top / "usr/bin/same")
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    os.mkfifo(top / "fifo")
    here = os.getcwd()
    os.chdir(top)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
    finally:
        os.chdir(here)
    (top / os.fsdecode(b"caf\xe9 \x1b[31m")).write_text("name")
    (top / ("n" * 255)).write_text("long")
    crowded = top / "crowded"
    crowded.mkdir()
    for number in range(1500):
        (crowded / f"entry-{number:05}-{'x' * (number % 40)}").write_text(str(number))
    deep = top
    for number in range(30):
        deep = deep / f"level{number}"
        deep.mkdir()
    (deep / "bottom").write_text("bottom")
    return top


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("tree"))


def everything(top: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path below the top, as the image calls it, and its status on disk."""
    for place, directories, files in os.walk(os.fsencode(top)):
        for name in (*directories, *files):
            path = place + b"/" + name
            yield path[len(os.fsencode(top)):], os.lstat(path)


def same(image: Squashfs, top: Path) -> int:
    """Compare an image with the tree that it was made from; the number of entries."""
    disk = DiskTree(os.fsencode(top))
    count = 0
    for path, status in [(b"/", os.lstat(top)), *everything(top)]:
        count += 1
        found = image.lstat(path)
        assert found is not None, path
        assert found.st_mode == status.st_mode, path
        assert int(found.st_mtime) == int(status.st_mtime), path
        if stat.S_ISDIR(status.st_mode):
            assert sorted(image.listdir(path)) == sorted(disk.listdir(path)), path
        else:
            assert found.st_nlink == status.st_nlink, path
        if stat.S_ISLNK(status.st_mode):
            assert image.readlink(path) == disk.readlink(path), path
        elif stat.S_ISREG(status.st_mode):
            assert found.st_size == status.st_size
            assert image.read_file(path, 1 << 20) == disk.read_file(path, 1 << 20), path
        else:
            assert image.read_file(path, 1 << 20) is None
    return count


@pytest.mark.slow
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_image_shows_the_tree_that_it_was_made_from(tree: Path, tmp_path: Path, compressor: str) -> None:
    with opened(squash(tree, tmp_path / "image", "-comp", compressor)) as image:
        assert same(image, tree) > 1500
        owner = image.lstat(b"/etc/passwd")
        assert owner is not None
        assert (owner.st_uid, owner.st_gid) == (os.getuid(), os.getgid())


@pytest.mark.parametrize("options", [
    PLAIN, ["-no-fragments"], ["-always-use-fragments"], ["-b", "4096"], ["-b", "1M"], ["-no-exports"], ["-no-xattrs"],
    ["-all-root"], ["-no-sparse"], ["-comp", "xz", "-Xbcj", "x86"], ["-comp", "gzip", "-Xwindow-size", "8"],
], ids=" ".join)
def test_image_shows_the_same_however_it_was_packed(tree: Path, tmp_path: Path, options: list[str]) -> None:
    with opened(squash(tree, tmp_path / "image", *options)) as image:
        same(image, tree)


def test_listing_is_that_of_unsquashfs(tree: Path, tmp_path: Path) -> None:
    path = squash(tree, tmp_path / "image")
    listed = subprocess.run(["unsquashfs", "-lln", path], check=True, stdout=subprocess.PIPE).stdout
    theirs = {}
    for line in listed.splitlines():
        if b" squashfs-root" in line:
            status, _, name = line.partition(b" squashfs-root")
            words = status.decode().split()
            theirs[name.partition(b" -> ")[0] or b"/"] = (words[0], words[1], int(words[2]))
    with opened(path) as image:
        for name, (mode, owner, size) in theirs.items():
            found = image.lstat(name)
            assert found is not None, name
            assert stat.filemode(found.st_mode) == mode
            assert f"{found.st_uid}/{found.st_gid}" == owner
            if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
                assert found.st_size == size
    assert len(theirs) > 1500


def test_devices_are_shown_as_such(tree: Path, tmp_path: Path) -> None:
    path = squash(tree / "empty", tmp_path / "image", "-p", "null c 666 0 0 1 3", "-p", "disk b 600 0 0 8 0")
    with opened(path) as image:
        modes = {name: image.lstat(name) for name in (b"/null", b"/disk")}
        assert all(modes.values())
        assert [stat.filemode(each.st_mode) for each in modes.values() if each] == ["crw-rw-rw-", "brw-------"]
        assert sorted(image.listdir(b"/")) == [(b"disk", "file"), (b"null", "file")]
        assert image.read_file(b"/null", 10) is None


def test_image_lies_behind_an_offset(tree: Path, tmp_path: Path) -> None:
    plain = squash(tree / "etc", tmp_path / "plain").read_bytes()
    (tmp_path / "image").write_bytes(b"\0" * 5000 + plain)
    with opened(tmp_path / "image", 5000) as image:
        same(image, tree / "etc")


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Squashfs]:
    need("squashfs-tools")
    with opened(squash(tree, tmp_path_factory.mktemp("image") / "image")) as found:
        yield found


@pytest.mark.parametrize("path", [
    b"/nothing", b"/etc/nothing", b"/etc/passwd/below", b"/bin/env", b"/crowded/entry-", b"/crowded/zzz", b"/crowded/a",
    b"/crowded/entry-00700", b"/" + b"n" * 256, b"/..", b"/etc/..", b"/.", b"/\0"])
def test_what_is_not_there_is_not_found(image: Squashfs, path: bytes) -> None:
    """Links on the way are not followed either: that is the planner's business, by the image's rules."""
    assert image.lstat(path) is None
    assert image.read_file(path, 100) is None
    with pytest.raises(DunnageError, match="ENOENT"):
        image.readlink(path)
    with pytest.raises(DunnageError, match="ENOENT"):
        image.listdir(path)


def test_links_lead_by_the_rules_of_the_image(image: Squashfs) -> None:
    found = directory.follow(image, b"/bin/env")
    assert found is not None
    assert found[0] == b"/usr/bin/env"
    assert directory.executable(image, b"/bin/../bin/env")
    assert directory.follow(image, b"/etc/mtab") is None


def test_a_file_above_the_limit_is_not_read(image: Squashfs) -> None:
    assert image.read_file(b"/etc/passwd", 26) == b"root:x:0:0::/root:/bin/sh\n"
    with pytest.raises(DunnageError, match="larger than 25 bytes"):
        image.read_file(b"/etc/passwd", 25)


def test_what_is_no_link_and_no_directory_is_not_taken_for_one(image: Squashfs) -> None:
    with pytest.raises(DunnageError, match="EINVAL"):
        image.readlink(b"/etc/passwd")
    with pytest.raises(DunnageError, match="ENOTDIR"):
        image.listdir(b"/etc/passwd")


def test_looking_up_reads_little(tree: Path, tmp_path: Path) -> None:
    """A few paths of a large image cost the blocks of metadata that they lie in, not all of them."""
    big = tmp_path / "big"
    for number in range(40):
        (big / f"d{number}").mkdir(parents=True)
        for below in range(100):
            (big / f"d{number}" / f"file-with-a-long-name-{below}").touch()
    path = squash(big, tmp_path / "image", "-comp", "gzip")
    with path.open("rb") as file:
        found = Squashfs(file.fileno(), 0, path.stat().st_size)
        for number in (0, 20):
            assert found.lstat(b"/d%d/file-with-a-long-name-%d" % (number, number * 2)) is not None
        few = len(found._blocks)
        for number in range(40):
            assert len(found.listdir(b"/d%d" % number)) == 100
            assert found.lstat(b"/d%d/file-with-a-long-name-50" % number) is not None
        assert few < len(found._blocks) / 3
    assert field(path.read_bytes(), "inodes") == 4041


@pytest.mark.requirement("D8")
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_looking_up_imports_little(tree: Path, tmp_path: Path, compressor: str) -> None:
    """A launch waits for it. Of zstandard the compiled half is enough; all of it takes longer than the launch."""
    path = squash(tree / "etc", tmp_path / "image", "-comp", compressor)
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCES)!r}); import posix; before = set(sys.modules)\n"
        "from dunnage.image.squashfs import Squashfs\n"
        f"file = posix.open({str(path)!r}, posix.O_RDONLY)\n"
        "image = Squashfs(file, 0, posix.fstat(file).st_size)\n"
        "assert image.read_file(b'/passwd', 100) == b'root:x:0:0::/root:/bin/sh\\n'\n"
        "print(*(name for name in set(sys.modules) - before if not name.startswith('dunnage')))")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert set(done.stdout.split()) <= {
        "struct", "_struct", "zlib", "_lzma", "zstandard.backend_c", "errno", "__future__"}


def test_a_compressor_that_nobody_has_is_told_from_a_broken_image(tree: Path, tmp_path: Path) -> None:
    path = squash(tree / "etc", tmp_path / "image", "-comp", "lzma")
    with pytest.raises(Unsupported) as caught, opened(path):
        pass
    assert "lzma" in caught.value.why
    assert caught.value.kind == IMAGE
    data = bytearray(path.read_bytes())
    change(data, "compressor", 77)
    path.write_bytes(data)
    with pytest.raises(Unsupported, match="77"), opened(path):
        pass


# -- random trees -------------------------------------------------------------------------------

names = st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))
files = st.one_of(
    st.binary(max_size=300).map(lambda data: ("file", data)),
    st.tuples(st.just("large"), st.integers(1, 200_000)),
    names.map(lambda text: ("link", text)),
)
trees = st.recursive(files, lambda below: st.dictionaries(names, below, max_size=6).map(lambda found: ("dir", found)),
                     max_leaves=25)


def grow(path: bytes, node: tuple[str, object]) -> None:
    kind, content = node
    if kind == "dir":
        os.mkdir(path)
        assert isinstance(content, dict)
        for name, below in content.items():
            grow(path + b"/" + name, below)
    elif kind == "link":
        assert isinstance(content, bytes)
        os.symlink(content, path)
    else:
        with open(path, "wb") as file:
            file.write(bytes(str(content), "ascii") * 7 if kind == "large" else content)  # type: ignore[arg-type]
            if isinstance(content, int):
                file.truncate(content)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(names, trees, max_size=8), compressor=st.sampled_from(COMPRESSORS),
       block=st.sampled_from(["4K", "128K"]))
def test_any_tree_is_shown_as_it_is(
    tmp_path: Path, content: dict[bytes, tuple[str, object]], compressor: str, block: str,
) -> None:
    top = tmp_path / "random"
    grow(os.fsencode(top), ("dir", content))
    try:
        with opened(squash(top, tmp_path / "image", "-comp", compressor, "-b", block)) as image:
            same(image, top)
    finally:
        shutil.rmtree(top)


# -- hostile images -----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small image without any compression, so that each of its bytes can be changed to something that counts."""
    need("squashfs-tools")
    place = tmp_path_factory.mktemp("plain")
    top = place / "top"
    (top / "sub/deeper").mkdir(parents=True)
    (top / "sub/deeper/file").write_bytes(b"content" * 100)
    (top / "sub/aa").write_text("one")
    (top / "sub/bb").write_text("two")
    (top / "link").symlink_to("sub/deeper")
    (top / "large").write_bytes(os.urandom(20_000))
    crowd = top / "crowd"
    crowd.mkdir()
    for number in range(60):
        (crowd / f"{number:02}{'y' * 200}").touch()
    return squash(top, place / "image", *PLAIN, "-b", "4096").read_bytes()


def place(inode: Inode) -> int:
    """Where it lies in its table, when that is not compressed."""
    return (inode.ref >> 16) + 2 + (inode.ref & 0xFFFF)


def explore(path: Path, budget: int = 1 << 24) -> int:
    """Look at everything that can be reached, as often as twice the image has inodes; the number of entries."""
    count = 0
    with opened(path, budget=budget) as image:
        left = [b""]
        while left and count < 1000:
            here = left.pop()
            for name, kind in image.listdir(here or b"/"):
                count += 1
                below = here + b"/" + name
                assert name not in (b"", b".", b"..")
                assert b"/" not in name
                image.lstat(below)
                if kind == "dir":
                    left.append(below)
                elif kind == "link":
                    image.readlink(below)
                else:
                    image.read_file(below, 1 << 16)
    return count


def explored(path: Path, budget: int = 1 << 24) -> str:
    """Why not, or how much."""
    try:
        return str(explore(path, budget))
    except DunnageError as error:
        assert error.kind == IMAGE
        return error.why


def renamed(plain: bytes, old: bytes, new: bytes, path: Path) -> Path:
    """One name of the directory table replaced by another of the same length."""
    begin, end = field(plain, "directory_table"), field(plain, "fragment_table")
    assert plain.count(old, begin, end) == 1
    path.write_bytes(plain[:begin] + plain[begin:end].replace(old, new) + plain[end:])
    return path


@pytest.mark.parametrize(("old", "new", "why"), [
    (b"aa", b"..", "name '..'"), (b"aa", b"/x", "name '/x'"), (b"aa", b"x/", "name 'x/'"), (b"aa", b"x\0", "name 'x"),
    (b"aa", b"bb", "'bb' twice"), (b"deeper", b"../../", "name '../../'"), (b"deeper", b"/etc/x", "name '/etc/x'"),
    (b"deeper", b"a/../b", "name"), (b"link", b"/tmp", "name '/tmp'"),
])
@pytest.mark.requirement("REG-18")
def test_a_name_that_leads_elsewhere_is_refused(plain: bytes, tmp_path: Path, old: bytes, new: bytes, why: str) -> None:
    assert why in explored(renamed(plain, old, new, tmp_path / "image"))


@pytest.mark.requirement("REG-18")
def test_a_directory_that_holds_itself_is_refused(plain: bytes, tmp_path: Path) -> None:
    """Two of the format's directories can name one inode; a walk of it would never end."""
    data = bytearray(plain)
    table = field(plain, "directory_table")
    at = data.index(b"deeper", table) - 8
    with opened(_written(tmp_path / "whole", plain)) as image:
        parent = image.find(b"/sub")
        assert parent is not None
        struct.pack_into("<H", data, at, parent.ref & 0xFFFF)
    assert "holds itself" in explored(_written(tmp_path / "image", data))


def _written(path: Path, data: bytes | bytearray) -> Path:
    path.write_bytes(data)
    return path


LARGEST = (1 << 64) - 1


@pytest.mark.parametrize(("name", "value"), [
    ("magic", 0), ("major", 3), ("minor", 1), ("block_size", 0), ("block_size", 4097), ("block_size", 1 << 30),
    ("log", 0), ("log", 40), ("used", 0), ("used", LARGEST), ("used", 95), ("ids", 0), ("root", LARGEST),
    ("root", 1 << 40), ("inode_table", 0), ("inode_table", LARGEST), ("directory_table", 0), ("id_table", LARGEST),
    ("directory_table", LARGEST - 1), ("id_table", 5), ("fragment_table", 5), ("fragment_table", LARGEST - 1),
    ("exports", 5), ("attributes", 5),
])
@pytest.mark.requirement("REG-19")
def test_a_superblock_that_cannot_be_is_refused(plain: bytes, tmp_path: Path, name: str, value: int) -> None:
    data = bytearray(plain)
    change(data, name, value)
    assert not explored(_written(tmp_path / "image", data)).isdigit()


@pytest.mark.parametrize("length", [0, 4, 95, 96, 500, 20_000])
@pytest.mark.requirement("REG-19")
def test_an_image_that_is_cut_short_is_refused(plain: bytes, tmp_path: Path, length: int) -> None:
    assert "short" in explored(_written(tmp_path / "image", plain[:length]))


@pytest.mark.slow
@pytest.mark.requirement("REG-19")
def test_every_changed_byte_gives_a_tree_or_a_refusal(plain: bytes, tmp_path: Path) -> None:
    assert explore(_written(tmp_path / "image", plain)) == 68
    outcomes: dict[str, int] = {}
    begin = field(plain, "inode_table")
    with opened(tmp_path / "image") as image:
        first, last = image.find(b"/crowd/02" + b"y" * 200), image.find(b"/crowd/58" + b"y" * 200)
        assert first is not None
        assert last is not None
    alike = {*range(plain.index(b"02yyy"), plain.rindex(b"58yyy")), *range(begin + place(first), begin + place(last))}
    data = bytearray(plain)
    with (tmp_path / "image").open("r+b") as file:
        for at in [*range(4, 96), *metadata(plain)]:
            if at in alike and at % 13:
                continue
            value = data[at] ^ (1 << at % 8 if at % 3 else 0xFF)
            os.pwrite(file.fileno(), bytes([value]), at)
            why = explored(tmp_path / "image").partition("'")[0]
            outcomes[why] = outcomes.get(why, 0) + 1
            os.pwrite(file.fileno(), data[at:at + 1], at)
    assert len(outcomes) > 10, outcomes


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.requirement("REG-19")
def test_whatever_is_changed_in_a_packed_image_it_ends_soon(tree: Path, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "packed"
    if not path.exists():
        squash(tree, path)
    whole = path.read_bytes()
    changed = bytearray(whole)
    places = st.one_of(st.integers(0, 95), st.sampled_from(metadata(whole)))
    for at in data.draw(st.lists(places, min_size=1, max_size=6)):
        changed[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(FIELDS)))
        change(changed, name, data.draw(st.sampled_from([0, 1, 96, 1 << 32, LARGEST, field(whole, name) + 1])))
    assert explored(_written(tmp_path / "image", changed))


@pytest.mark.requirement("REG-19")
def test_an_image_that_asks_for_endless_work_is_given_up(tree: Path, tmp_path: Path) -> None:
    assert "more work" in explored(squash(tree, tmp_path / "image"), budget=1 << 16)


@pytest.mark.requirement("REG-19")
def test_a_directory_of_gigabytes_is_refused_before_it_is_read(plain: bytes, tmp_path: Path) -> None:
    with opened(_written(tmp_path / "whole", plain)) as image:
        crowd = image.find(b"/crowd")
        assert crowd is not None
        assert crowd.indexes
    data = bytearray(plain)
    at = field(plain, "inode_table") + place(crowd) + 16 + 4
    assert int.from_bytes(data[at:at + 4], "little") == crowd.size
    data[at:at + 4] = b"\xff\xff\xff\xff"
    assert "4294967295 bytes" in explored(_written(tmp_path / "image", data))


# -- decompressors ------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [inflate.GZIP, inflate.XZ, inflate.ZSTD, inflate.LZ4, inflate.LZO])
@pytest.mark.requirement("REG-19")
def test_a_decompressor_gives_no_more_than_it_may(number: int, tree: Path, tmp_path: Path) -> None:
    """A block that is made for it, cut and changed anywhere, and asked for less than it holds."""
    path = squash(tree / "crowded", tmp_path / "image", "-comp", inflate.NAMES[number])
    data = path.read_bytes()
    at = field(data, "inode_table")
    size = int.from_bytes(data[at:at + 2], "little")
    assert not size & 0x8000
    block = data[at + 2:at + 2 + size]
    decompress = inflate.inflater(number)
    whole = decompress(block, 8192)
    assert len(whole) == 8192
    for most in (0, 1, 4000, 8191):
        with pytest.raises(ValueError):
            decompress(block, most)
    for cut in range(0, len(block), 7):
        try:
            assert len(decompress(block[:cut], 8192)) <= 8192
        except ValueError:
            continue
    for place in range(0, len(block), 3):
        changed = bytearray(block)
        changed[place] ^= 1 << place % 8
        try:
            assert len(decompress(bytes(changed), 8192)) <= 8192
        except ValueError:
            continue


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([inflate.GZIP, inflate.XZ, inflate.ZSTD, inflate.LZ4, inflate.LZO]))
@pytest.mark.requirement("REG-19")
def test_decompressors_take_any_bytes(block: bytes, number: int) -> None:
    try:
        assert len(inflate.inflater(number)(block, 8192)) <= 8192
    except ValueError as error:
        assert str(error)


@pytest.mark.requirement("REG-19")
def test_a_block_that_claims_a_great_size_is_not_given_the_memory() -> None:
    """zstd's header says how long the content is; four bytes of it make the library allocate gigabytes."""
    claim = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + b"\x03\0\0x"
    with pytest.raises(ValueError):
        inflate.inflater(inflate.ZSTD)(claim, 8192)
