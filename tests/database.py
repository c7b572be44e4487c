"""A real PostgreSQL server for a test session, in a folder of its own, that can be stopped and started again."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
BIN = next((folder for folder in FOLDERS if (folder / "initdb").exists()), None)


class Postgres:
    """One server, running."""

    def __init__(self, folder: Path) -> None:
        assert BIN is not None
        self._bin, self._data = BIN, folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        if os.geteuid() == 0:
            # The server refuses to run as root.
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", self._data, "-U", "eco", "-A", "trust", "--no-sync")
        self.start()

    def create(self, name: str) -> str:
        """A new database; returns its address."""
        self._run("createdb", "-h", "127.0.0.1", "-p", self._port, "-U", "eco", name)
        return f"postgresql://eco@127.0.0.1:{self._port}/{name}"

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        log = self._data.parent / "log"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._bin / program), *map(str, arguments)]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that is gone afterwards, its folder too."""
    # Not in pytest's folders, which only their owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()
