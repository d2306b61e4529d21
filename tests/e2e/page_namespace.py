"""Namespaces for a page of the documents: a network, a process table and users of its own."""

import os
import pwd
import sys
from pathlib import Path

from .aws_cli import FOLDERS
from .network import execute
from .page_hosts import CERTIFICATES

if sys.platform == "win32":
    raise ImportError("there are no namespaces on Windows")

# Of this machine, as others on its network call it; one for documentation.
ADDRESS = "192.0.2.7"
# In the environment of all that a page starts, at whatever remove, and of nothing else.
MARK = "PAGE_OF_THE_DOCUMENTS"
_LISTENS, _ACCEPTS = "0A", "00010000"  # as /proc/net/tcp and /proc/net/unix have it


def new_namespaces() -> tuple[str, ...]:
    """The command that runs another in new namespaces, which end with it and all that is there.

    Raises NotAllowed where they are not allowed.
    """
    user = () if os.geteuid() == 0 else ("--user", "--map-current-user", "--keep-caps")
    new = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    command = ("unshare", *user, *new)
    execute(*command, "true")
    return command


def make_namespace(folder: Path) -> None:
    """Have a loopback interface, and users whose homes are in ``folder``."""
    execute("ip", "link", "set", "lo", "up")
    execute("ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo")
    (folder / "instance").mkdir()
    uid, gid = os.geteuid(), os.getegid()
    users = [f"ec2-user:x:{uid}:{gid}::{folder}/instance:/bin/bash"]
    for user in pwd.getpwall():
        if user.pw_uid == uid:
            user_line = f"{user.pw_name}:x:{uid}:{gid}::{folder}/home:/bin/bash"
            users.insert(0, user_line)
        else:
            users.append(":".join(map(str, user)))
    passwd = folder / "passwd"
    passwd.write_text("\n".join(users) + "\n")
    execute("mount", "--bind", str(passwd), "/etc/passwd")


def environment(folder: Path) -> dict[str, str]:
    """The environment of a page, in which nothing of the user's is found."""
    home, runtime, programs = folder / "home", folder / "run", folder / "bin"
    for own in (home, runtime, programs):
        own.mkdir(mode=0o700)
    aws = FOLDERS[1] / "bin" / "aws"
    if aws.exists():
        (programs / "aws").symlink_to(aws)
    user = pwd.getpwuid(os.geteuid()).pw_name
    path = (str(programs), str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin")
    return {
        "PATH": os.pathsep.join(path),
        "HOME": str(home),
        "USER": user,
        "LOGNAME": user,
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": str(runtime),
        "SSL_CERT_FILE": str(CERTIFICATES),
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
    }


def listening() -> set[str]:
    """What this network listens on: ``address:port`` of each TCP socket, and unix sockets."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == _LISTENS:
                host, _, port = address.rpartition(":")
                found.add(f"{host}:{int(port, 16)}")
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _ACCEPTS:
            found.add(fields[7] if len(fields) > 7 else fields[6])
    return found


def commands_of_the_page() -> list[str]:
    """The command lines of processes that its blocks have started, at whatever remove."""
    pids = (path.name for path in Path("/proc").iterdir() if path.name.isdecimal())
    return [command for pid in pids if (command := _command(pid))]


def _command(pid: str) -> str:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has gone meanwhile
        return ""
    return command.replace(b"\0", b" ").decode() if f"{MARK}=".encode() in environment else ""
