"""The ways to run a command apart from the rest of the machine, and the user that it runs as.

`mi_lens.problems.grading.sandbox` says what each of them promises.
"""

import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Literal

Isolation = Literal["bubblewrap", "unshare", "limits"]
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
# User numbers that nobody has: systemd leaves the first range unused; a container may end at 65536,
# and then has few of the people to whom Debian would give the second range.
UNUSED = range(1_900_000_000, 2_100_000_000)
UNUSED_IN_A_CONTAINER = range(30_000, 60_000)
# Without bubblewrap: a private file tree in a mount namespace that ends with the program.
PRIVATE_TREE = r"""
umask 022
root=$1; folder=$2; shift 2
mount -t tmpfs -o mode=755,size=1m tmpfs "$root"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root${1%/*}"; : > "$root$1"; fi
  mount --bind "$1" "$root$1"
  case "$1" in /dev/*) ;; *) mount -o remount,bind,ro,nosuid "$root$1" ;; esac
  shift
done
shift
mkdir -p "$root/proc" "$root$folder"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$folder" "$root$folder"
mount -o remount,bind,ro "$root"
set +e
chroot "$root" "$@"
exit $?  # not exec: signals do not kill the first process of a namespace as they kill others
"""
# An ordinary user is root of the new user namespace. With root's rights there a program could
# leave the file tree.
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


def user_of_its_own() -> int | None:
    """A user number for one program if the caller is root; None if the caller is not.

    The number is random, so that programs that run at the same time are different users: the
    kernel counts processes by user, and a user cannot send signals to another one.

    Raises:
        RuntimeError: If the caller is root of a user namespace with too few numbers.
    """
    if os.geteuid() != 0:
        return None
    ranges = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    end = max(int(first) + int(count) for first, _, count in map(str.split, ranges))
    for users in (UNUSED, UNUSED_IN_A_CONTAINER):
        if users.stop <= end:
            return users[secrets.randbelow(len(users))]
    raise RuntimeError(
        f"this user namespace ends at user {end - 1}; expected users up to "
        f"{UNUSED_IN_A_CONTAINER.stop}, one for each program; map more users or do not run as root"
    )


def enclosed(kind: Isolation, folder: Path, root: Path, command: list[str]) -> list[str]:
    """The command that runs a command of Python's in an isolation.

    Args:
        kind: The isolation.
        folder: The one folder that the command may write to.
        root: An empty folder, which may become the root of a file tree.
        command: The command; it gives up root's rights itself.

    Raises:
        FileNotFoundError: If a tool is not installed.
    """
    if kind == "limits":
        return command
    python = (sys.prefix, sys.base_prefix)
    readable = [path for path in dict.fromkeys((*SYSTEM, *python)) if os.path.exists(path)]
    as_root = os.geteuid() == 0
    if kind == "unshare":
        apart = ["--mount", "--ipc", "--net", "--pid", "--uts", "--fork", "--kill-child"]
        if not as_root:
            apart = ["--user", "--map-root-user", *apart]
            command = [*WITHOUT_RIGHTS, *command]
        devices = [f"/dev/{name}" for name in ("null", "zero", "urandom")]
        tree = ["sh", "-euc", PRIVATE_TREE, "sh", str(root), str(folder), *readable, *devices]
        return [_tool("unshare"), *apart, *tree, "--", *command]
    apart = [f"--unshare-{what}" for what in ("ipc", "net", "pid", "uts")]
    if as_root:
        rights = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # to leave root
    else:
        rights = ["--unshare-user"]  # in which the kernel counts processes anew
    above = dict.fromkeys(str(up) for path in python for up in reversed(Path(path).parents[:-1]))
    folders = [word for path in above for word in ("--dir", path)]  # readable, unlike /root
    binds = [word for path in readable for word in ("--ro-bind", path, path)]
    return [
        *(_tool("bwrap"), "--die-with-parent", *apart, *rights, *folders, *binds),
        *("--proc", "/proc", "--dev", "/dev", "--bind", str(folder), str(folder)),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--", *command),
    ]


def _tool(name: str) -> str:
    """The tool's path by the caller's PATH; the child's environment has another one."""
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name}: not installed")
    return path
