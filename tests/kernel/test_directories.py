"""Home, working directory, /tmp, -W and -S, and what is there by default (CLI-69 ff.)."""
from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from containers.features import need
from containers.front import Front
from containers.launch import Ended
from dunnage.errors import DunnageError
from dunnage.launch.prepare import make_directory

pytestmark = pytest.mark.kernel

ACCOUNT_HOME = pwd.getpwuid(os.getuid()).pw_dir if any(each.pw_uid == os.getuid() for each in pwd.getpwall()) else "/"


def payload(front: Front, image: Path, *options: str | Path, commands: str, cwd: str | Path = "/",
            verb: str = "exec") -> Ended:
    return front(verb, *options, image, "/bin/payload", *commands.split(), cwd=cwd)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/mark").write_text("home\n")
    (tmp_path / "work/sub").mkdir(parents=True)
    (tmp_path / "work/mark").write_text("work\n")
    return tmp_path


# ---- what is there by default ----

@pytest.mark.requirement("CLI-69", "CLI-70", "CLI-71", "CLI-73", "UND-224", "UND-227")
def test_default_mounts(front: Front, image: Path) -> None:
    done = payload(front, image,
                   commands="mounts + ls /dev + cat /proc/self/uid_map + try redirect /dev/null + try read /dev/zero + "
                            "ls /sys")
    mounts = {line.split()[4]: line.split()[5].split(",") for line in done.well().lines if " - " in line}
    assert {"/", "/dev", "/proc", "/sys", "/tmp", "/var/tmp"} <= set(mounts)
    assert "ro" in mounts["/"] and "nodev" in mounts["/"]
    assert "nodev" not in mounts["/dev"] and "rw" in mounts["/proc"] and "rw" in mounts["/tmp"]
    assert all("nosuid" in flags for flags in mounts.values())
    uid = str(os.getuid())
    assert uid in done.out and [uid, uid, "1"] in [line.split() for line in done.lines]
    assert done.lines[-3:-1] == ["ok", "ok"]
    assert done.lines[-1].split() == sorted(os.listdir("/sys"))


@pytest.mark.requirement("CLI-69", "CLI-98", "UND-61", "UND-228")
@pytest.mark.parametrize("options", [["-c"], ["-C"], ["-c", "--ipc"]])
def test_minimal_dev(front: Front, image: Path, options: list[str]) -> None:
    nodes = ["null", "zero", "full", "random", "urandom", "tty"]
    writes = " + ".join(f"try redirect /dev/{name}" for name in nodes[:-1])
    done = payload(front, image, *options,
                   commands=f"ls /dev + {writes} + pty + try create /dev/shm/x + stat /dev + try create /dev/x + "
                            "readlink /dev/fd + readlink /dev/ptmx + stat /dev/shm + ls /dev/pts")
    lines = done.well().lines
    expected = {*nodes, "fd", "stdin", "stdout", "stderr", "shm", "pts", "ptmx"} | ({"mqueue"} if options != ["-c"]
                                                                                    else set())
    assert set(lines[0].split()) == expected
    assert lines[1:6] == ["ok", "ok", "ENOSPC", "ok", "ok"]
    assert lines[6] == "/dev/pts/0 ok" and lines[7] == "ok"
    assert lines[8].startswith("dir 755 ") and lines[10:12] == ["/proc/self/fd", "pts/ptmx"]
    assert lines[12].startswith("dir 1777 ") and lines[13] == "ptmx"


@pytest.mark.requirement("CLI-71", "CLI-72", "CLI-73", "CLI-74", "ATK-07", "ATK-16", "ATK-17", "ATK-18", "ATK-44")
def test_contained(front: Front, image: Path, host: Path) -> None:
    need("new proc")
    done = payload(front, image, "-C",
                   commands=f"ls /tmp + ls /var/tmp + ls {ACCOUNT_HOME} + try create /tmp/{host.parent.name} + "
                            "ls /proc + cwd + try create /etc/x + stat /tmp + try create /sys/x + environment",
                   cwd=host / "work")
    lines = done.well().lines
    home_is_root = ACCOUNT_HOME == "/"
    assert lines[:2] == ["", ""] and lines[3] == "ok"
    assert home_is_root or lines[2] == ""
    assert {name for name in lines[4].split() if name.isdigit()} == {"1", "2"}
    assert lines[5] == ACCOUNT_HOME
    assert lines[6] == "EROFS" and lines[7].startswith("dir 1777 ")
    assert not Path("/tmp", host.parent.name).exists()


@pytest.mark.requirement("CLI-83", "ATK-32")
def test_private_directories_share_one_limit_and_no_files(front: Front, image: Path) -> None:
    done = payload(front, image, "-c", commands="try create /tmp/a + ls /var/tmp + ls /tmp")
    assert done.well().lines == ["ok", "", "a"]


@pytest.mark.requirement("CLI-69", "CLI-72")
@pytest.mark.parametrize(("word", "gone"),
                         [("tmp", "/tmp"), ("proc", "/proc/self"), ("sys", "/sys/kernel"), ("dev", "/dev/null")])
def test_no_mount(front: Front, image: Path, word: str, gone: str) -> None:
    assert payload(front, image, commands=f"stat {gone}").well().out != "ENOENT\n"
    done = payload(front, image, "--no-mount", word, commands=f"ls {gone}" if word == "tmp" else f"stat {gone}")
    assert done.well().out == ("\n" if word == "tmp" else "ENOENT\n")


# ---- home ----

@pytest.mark.requirement("CLI-75", "CLI-61")
@pytest.mark.parametrize("options",
                         [[], ["-c"], ["-C"], ["--no-mount", "tmp"], ["-W", "{}/work"], ["-c", "-W", "{}/work"]])
def test_explicit_home(front: Front, image: Path, host: Path, options: list[str]) -> None:
    """At any destination, existing or not, with every other option; written through to the host."""
    options = [option.format(host) for option in options]
    places = [(":/alrb", "/alrb"), (":/etc", "/etc"), (":/a/b/c", "/a/b/c")]
    if not {"-c", "-C"} & set(options):  # the test's directory lies below /tmp or /var/tmp, which then are empty
        places.append(("", f"{host}/home"))
    for destination, inside in places:
        done = payload(front, image, *options, "--home", f"{host}/home{destination}",
                       commands=f"cat {inside}/mark + try create {inside}/new + environment")
        assert done.well().lines[:2] == ["home", "ok"]
        assert f"HOME={inside}\0" in done.out
        assert (host / "home/new").exists()
        (host / "home/new").unlink()


@pytest.mark.requirement("CLI-75", "CLI-13")
def test_home_last_one_wins_and_is_relative_to_the_working_directory(front: Front, image: Path, host: Path) -> None:
    done = payload(front, image, "--home", "/nonexistent", "-H", "home:/h", commands="cat /h/mark", cwd=host)
    assert done.well().out == "home\n"


@pytest.mark.requirement("CLI-75")
def test_home_that_does_not_exist(front: Front, image: Path, host: Path) -> None:
    done = payload(front, image, "--home", f"{host}/none:/h", commands="ls /h + try create /h/x + environment")
    assert done.status == 0 and done.lines[:2] == ["", "ok"] and "HOME=/h\0" in done.out
    assert done.err.count("\n") == 1 and "does not exist" in done.err
    assert not (host / "none").exists()
    front.fatal("exec", "--home", "/a:/b:/c", image, "/bin/payload")


@pytest.mark.requirement("CLI-76")
def test_no_home(front: Front, image: Path) -> None:
    done = payload(front, image, "--no-home", commands="environment")
    assert f"HOME={ACCOUNT_HOME}\0" in done.well().out


# ---- working directory ----

@pytest.mark.requirement("CLI-78", "CLI-79", "CLI-80")
def test_working_directory_is_mounted_at_its_own_path(front: Front, image: Path, host: Path) -> None:
    done = payload(front, image, commands="cwd + cat mark + try create new + environment", cwd=host / "work")
    assert done.well().lines[:3] == [f"{host}/work", "work", "ok"]
    assert f"PWD={host}/work\0" in done.out
    assert (host / "work/new").exists()
    assert payload(front, image, "-c", commands="cwd", cwd=host / "work").well().out == f"{ACCOUNT_HOME}\n"


@pytest.mark.requirement("CLI-78", "CLI-80")
@pytest.mark.parametrize("option", ["--pwd", "--cwd"])
def test_working_directory_that_was_asked_for(front: Front, image: Path, host: Path, option: str) -> None:
    assert payload(front, image, option, "/etc", commands="cwd", cwd=host / "work").well().out == "/etc\n"
    done = payload(front, image, "-B", f"{host}/work:/new/place", option, "/new/place/sub", commands="cwd")
    assert done.well().out == "/new/place/sub\n"
    line = front.fatal("exec", option, "/none", image, "/bin/payload")
    assert "cannot set working directory /none: " in line and "ENOENT" in line


@pytest.mark.requirement("CLI-03", "CLI-78")
def test_working_directory_that_was_deleted_or_may_not_be_entered(front: Front, image: Path, host: Path) -> None:
    def vanish() -> None:
        os.chdir(host / "work/sub")
        os.rmdir(host / "work/sub")

    done = front("exec", image, "/bin/payload", "cwd", preexec_fn=vanish)
    assert done.well().out == "/\n"

    def lock() -> None:
        os.chdir(host / "work")
        os.chmod(host / "work", 0)

    done = front("exec", image, "/bin/payload", "cwd", preexec_fn=lock)
    (host / "work").chmod(0o755)
    assert done.status == 0 and "Traceback" not in done.err


@pytest.mark.requirement("CLI-80", "CLI-79")
def test_working_directory_through_a_link(front: Front, image: Path, host: Path) -> None:
    """The physical path, as getcwd says it."""
    (host / "link").symlink_to("work")
    done = payload(front, image, commands="cwd + cat mark", cwd=host / "link")
    assert done.well().lines == [f"{host}/work", "work"]


@pytest.mark.requirement("CLI-79", "UND-P15", "CLI-74")
def test_working_directory_never_hides_what_was_asked_for(front: Front, image: Path, host: Path) -> None:
    done = payload(front, image, "-B", f"{host}/home:{host}/work", commands=f"ls {host}/work", cwd=host / "work")
    assert done.well().out == "mark\n" and payload(
        front, image, "-B", f"{host}/home:{host}/work", commands="cat mark", cwd=host / "work").well().out == "home\n"


# ---- -W and -S ----

@pytest.mark.requirement("CLI-81", "CLI-82")
def test_workdir_and_scratch(front: Front, image: Path, host: Path) -> None:
    done = payload(front, image, "-c", "-W", "w/deep", "-S", "/scratch/one,/two",
                   commands="try create /tmp/t + try create /var/tmp/v + try create /scratch/one/s + "
                                                                           "try create /two/s + stat /tmp + stat /two",
                   cwd=host)
    assert done.well().lines[:4] == ["ok"] * 4
    assert [line.split()[1] for line in done.lines[4:]] == ["1777", "750"]
    top = host / "w/deep"
    for name in ("tmp/t", "var_tmp/v", "scratch/scratch/one/s", "scratch/two/s"):
        assert (top / name).exists(), name
    done = payload(front, image, "-c", "-W", str(top), commands="ls /tmp")
    assert done.well().out == "t\n"  # content that was there stays


@pytest.mark.requirement("CLI-81")
def test_workdir_despite_a_umask(front: Front, image: Path, tmp_path: Path) -> None:
    done = front("exec", "-c", "-W", tmp_path / "w", image, "/bin/payload", "stat", "/tmp",
                 preexec_fn=lambda: os.umask(0o077) and None)
    assert done.well().out.startswith("dir 1777 ")
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == 0o755


@pytest.mark.requirement("ATK-40", "CLI-81")
@pytest.mark.parametrize(("name", "options"), [("tmp", ["-C"]), ("var_tmp", ["-c"]), ("home", ["-C"]),
                                               ("scratch", ["-S", "/data"]), ("scratch", ["-C", "-S", "/data/deep"])])
@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_links_that_an_earlier_payload_left(front: Front, image: Path, tmp_path: Path, name: str, options: list[str],
                                            target: str) -> None:
    """Nothing is bound, made or changed where they lead."""
    work, victim = tmp_path / "w", tmp_path / "victim"
    work.mkdir()
    victim.mkdir(mode=0o711)
    done = payload(front, image, "-B", f"{work}:/mnt", commands=f"try symlink {tmp_path / target} /mnt/{name}")
    assert done.well().out == "ok\n"
    line = front.fatal("exec", *options, "-W", work, image, "/bin/payload", "try", "create", "/tmp/x")
    assert "ELOOP" in line and f"`rm {work}/{name}`" in line.replace(f"...{name}", f"{work}/{name}")
    assert list(victim.iterdir()) == [] and stat.S_IMODE(victim.stat().st_mode) == 0o711
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.requirement("ATK-40")
def test_directories_are_never_made_through_a_link(tmp_path: Path) -> None:
    """As if it was exchanged for the directory after the plan was made."""
    victim, work = tmp_path / "victim", tmp_path / "w"
    victim.mkdir(mode=0o711)
    work.mkdir()
    (work / "tmp").symlink_to(victim)
    for below in ("tmp", "tmp/deep"):
        with pytest.raises(DunnageError, match="is a symbolic link or a file"):
            make_directory(os.fsencode(work / below), 0o1777)
    assert list(victim.iterdir()) == [] and stat.S_IMODE(victim.stat().st_mode) == 0o711
    make_directory(os.fsencode(work / "new/deep"), 0o1777)
    make_directory(os.fsencode(work / "new"), 0o700)
    assert [stat.S_IMODE((work / each).stat().st_mode) for each in ("new", "new/deep")] == [0o755, 0o1777]


@pytest.mark.requirement("CLI-82")
def test_scratch_without_workdir_is_private(front: Front, image: Path) -> None:
    done = payload(front, image, "-S", "/new/scratch", "-S", "/tmp",
                   commands="stat /new/scratch + try create /new/scratch/x + ls /tmp")
    assert done.well().lines[0].startswith("dir 750 ")
    assert done.lines[1:] == ["ok", ""]


# ---- identity ----

@pytest.mark.requirement("CLI-101", "CLI-102", "D10")
def test_identity(front: Front, shelled: Path) -> None:
    uid, gid = os.getuid(), os.getgid()
    name = pwd.getpwuid(uid).pw_name
    done = front("exec", "--home", "/etc:/elsewhere", shelled, "/bin/payload", "ids", "+", "cat", "/etc/passwd")
    lines = done.well().lines
    assert lines[0].split()[:4] == [str(uid), str(uid), str(gid), str(gid)] and lines[1] == "pw"
    entry = lines[2].split(":")
    assert (entry[0], entry[2], entry[3], entry[5]) == (name, str(uid), str(gid), "/elsewhere")
    assert (shelled / "etc/passwd").read_text() == "pw\n"


@pytest.mark.requirement("CLI-102")
def test_account_that_nobody_knows(front: Front, image: Path) -> None:
    """No passwd entry: as in a batch job whose uid only exists there; no error, no entry."""
    unknown = ["unshare", "-U", "--map-user=54321", "--map-group=54321"]
    done = front("exec", image, "/bin/payload", "ids", "+", "cat", "/etc/passwd", "+", "environment", wrap=unknown)
    assert done.well().lines[0].split()[:3] == ["54321", "54321", "54321"]
    assert done.lines[1] == "pw" and "HOME=/\0" in done.out


@pytest.mark.requirement("CLI-103")
def test_resolv_conf_is_the_hosts(front: Front, shelled: Path) -> None:
    done = front("exec", shelled, "sh", "-c", "cat /etc/resolv.conf")
    if os.path.exists("/etc/resolv.conf"):
        assert done.well().out == Path("/etc/resolv.conf").read_text()
    assert not (shelled / "etc/resolv.conf").exists()


@pytest.mark.requirement("CLI-104", "D11")
def test_network(front: Front, image: Path) -> None:
    need("network namespaces")
    inode = f"net:[{os.stat('/proc/self/ns/net').st_ino}]"
    for options, same in ([], True), (["-C"], True), (["--net", "--network", "none"], False):
        done = payload(front, image, *options, commands="readlink /proc/self/ns/net + loopback")
        assert (done.well().lines[0] == inode) == same
        assert done.lines[1] == "up"
    assert "--network" in front.fatal("exec", "--net", "--network", "bridge", image, "/bin/payload")


@pytest.mark.requirement("CLI-51")
def test_umask(front: Front, image: Path) -> None:
    assert "umask=0137" in front("exec", image, "/bin/payload", "limits", preexec_fn=lambda: os.umask(0o137)).well().out
    assert "umask=0022" in front("exec", "--no-umask", image, "/bin/payload", "limits",
                                 preexec_fn=lambda: os.umask(0o137)).well().out


def test_host_name(front: Front, image: Path) -> None:
    assert payload(front, image, "--uts", "--hostname", "box", commands="hostname").well().out == "box\n"
    assert payload(front, image, commands="hostname").well().out == os.uname().nodename + "\n"
