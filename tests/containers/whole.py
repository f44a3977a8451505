"""One plan that holds every operation: it works, and every change that makes it wrong must be refused."""
from __future__ import annotations

from pathlib import Path

from containers.plans import Operation, image_file, operation, operations, plan, source

HELD = 700  # must be open when the plan is executed
COMMAND = "echo began + try create /opt/effect + cwd + environment"


def whole_plan(image: Path, bound: Path, file: Path, shown: Path | None = None, *,
               api: str = "auto") -> list[Operation]:
    """`bound` gets a directory and files made in it when the plan is executed, and not otherwise.

    `shown` is an image file, if the plan is to be executed.
    """
    return plan(
        image, COMMAND.split(),
        speaking="speak dunnage dunnage 2 255\nfront /nonexistent/front\nrenew 'dunnage freeze -o plan'\n"
                 "request 1 user 'the first'\nrequest 2 default 'the second'",
        mechanism=f"mechanism {api}\nwithout close_range",
        namespaces="user,mount,pid,ipc,uts,cgroup,net",
        naming=f"""
            loopback
            hostname box
            die-with-caller 0
            supervise
            hold {HELD}
            wall-time 2147483647 0
            cpu-time 100000 1000
            cgroup 0 0 quiet /nonexistent
            receipt {file.parent} receipt '{{"protections":[{{}}'
            receipt-state cgroup '{{"state":"on"}}' '{{"why":"'
        """,
        objects=[
            *image_file(6, shown or file, reads=["/usr", "/lib", "/lib64", "/etc"]),
            source(1, bound, request=1), source(2, file, "ro", request=2),
            *operations("""
                scratch-place /nonexistent
                scratch-place /tmp
                scratch 1048576 1000
                session 1048576 1000
                generated 3 644 'made by the plan'
                private 4 1777
                credentials 5
            """),
            operation("credential", 5, "token", 2, file)],
        root="stage 0\nroot 0",
        placing="""
            open 0 0 many overlay binds 755 1500000000 5 1 /many
            point-dir 0 755 below
            point-file 0 444 added
            point-file 0 444 n3
            expect-no-dir 0 below
            fill 0
            attach 1 dir '' 1 /opt
            attach 2 file '' 2 /many/added
            attach 3 link passwd 0 /etc/link
            attach 4 dir '' 0 /tmp
            expect-link 1 usr/lib /lib
            make-dir 755 /tmp/dir
            make-file 644 /tmp/dir/file
            make-link file /tmp/dir/link
            make-dir 755 /tmp/credentials
            attach 5 dir '' 0 /tmp/credentials
            make-dir 755 /tmp/shown
            attach 6 dir '' 0 /tmp/shown
            host-dir 1 /opt/made
            host-file 1 /opt/made-file
            mount-proc /proc
            mount-tmpfs 1777 65536 10 /mnt
            mount-devpts /home
            mount-mqueue /sys
            seal 0
        """,
        process="""
            workdir quiet /nonexistent
            workdir fatal /opt
            env-all
            env-except HIDDEN
            env-except-prefix SECRET_
            env-pass SECRET_PASSED
            env-set ADDED value
            descriptors close
            keep-descriptor 2
            umask 27
            new-session
            controlling-terminal quiet
            limit files 64 64
            no-user-namespaces
            new-keyring quiet
            landlock-scope abstract,signal quiet
            terminal-filter quiet
            init test-init
            search /nonexistent
            search /bin
            lead payload
        """)


def replaced(whole: list[Operation], name: str, field: int, value: bytes | str) -> list[Operation]:
    """The plan with one field of the first such operation changed; field 0 is the name."""
    at = index(whole, name)
    changed = list(whole[at])
    changed[field] = value if isinstance(value, bytes) else value.encode()
    return [*whole[:at], tuple(changed), *whole[at + 1:]]


def index(whole: list[Operation], name: str) -> int:
    return next(at for at, each in enumerate(whole) if each[0] == name.encode())


def without(whole: list[Operation], name: str) -> list[Operation]:
    return [each for each in whole if each[0] != name.encode()]


def with_after(whole: list[Operation], name: str, *added: str) -> list[Operation]:
    """The plan with operations added after the first one of this name."""
    at = index(whole, name) + 1
    return [*whole[:at], *(each for line in added for each in operations(line)), *whole[at:]]


def with_words(whole: list[Operation], name: str, *words: str) -> list[Operation]:
    """The plan with the first operation of this name written anew."""
    at = index(whole, name)
    return [*whole[:at], operation(*words), *whole[at + 1:]]
