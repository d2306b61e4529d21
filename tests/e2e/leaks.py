"""Looking for secrets where they must not be: what programs print, and what /proc shows of them."""

import asyncio
import base64
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

# What is shown of a secret may be a part of it. So many characters in a row are no coincidence.
PIECE = 16
RESPONSE_VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"
# A connection's beginning holds the requests, the answers, and more; the bulk is not kept.
KEPT = 64 * 1024

# What is secret on the wire, by the name that the tests tell it by.
ON_THE_WIRE = {
    "token": rb'"TokenValue": ?"([^"]+)"',
    "signature": rb"Signature=([0-9a-f]{64})",
    "session token": rb"(?i)x-amz-security-token(?:: |=)([^\s&]+)",
    "proxy password": rb"(?i)proxy-authorization: basic (\S+)",
    "data key": rb'"Plaintext": ?"([^"]+)"',
}


class Secrets:
    """Secrets by name, and the search for them in any of the forms in which they may be shown."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}

    def add(self, name: str, *values: str | bytes) -> None:
        for value in values:
            self._known[value.encode() if isinstance(value, str) else value] = name

    def count(self, name: str) -> int:
        """How many different ones of that name there are."""
        return list(self._known.values()).count(name)

    def shown_in(self, text: bytes) -> set[str]:
        """The names of those that ``text`` shows, whole or a part."""
        text = text.lower()
        pieces = {text[start : start + PIECE] for start in range(len(text) - PIECE + 1)}
        found = set()
        for secret, name in self._known.items():
            for form in forms(secret):
                if len(form) < PIECE:
                    shown = form in text
                else:
                    parts = (form[at : at + PIECE] for at in range(len(form) - PIECE + 1))
                    shown = not pieces.isdisjoint(parts)
                if shown:
                    found.add(name)
        return found


def forms(secret: bytes) -> set[bytes]:
    """A secret as it is, in URLs, in JSON, in base64 wherever it begins, in hex, and in a repr."""
    text = secret.decode("latin-1")
    found = {
        secret,
        quote(secret, safe="").encode(),
        quote_plus(secret).encode(),
        json.dumps(text)[1:-1].encode(),
        repr(secret)[2:-1].encode(),
        ascii(text)[1:-1].encode(),
        secret.hex().encode(),
    }
    for before in range(3):
        # The characters at either end hold bits of the neighbours, too.
        encoded = base64.b64encode(bytes(before) + secret).rstrip(b"=")
        inner = encoded[before and 4 : -1]
        found |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return {form.lower() for form in found if len(form) >= 6}


class Seen:
    """Everything that could be seen of some programs, by where it was seen."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}

    def add(self, where: str, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.texts[where] = self.texts.get(where, b"") + data + b"\0"

    def add_process(self, pid: int, command: Iterable[str], env: Mapping[str, str]) -> None:
        """Add argv and environment of a program and of what it has started.

        What the user himself gave to the program with ``command`` and ``env`` is left out. The
        variable of the plugin's response may be in the plugin's own environment only.
        """
        given = {f"{name}={value}".encode() for name, value in env.items()}
        for_children = {one for one in given if not one.startswith(RESPONSE_VARIABLE.encode())}
        self._add_proc(Path(f"/proc/{pid}"), {text.encode() for text in command}, given)
        for child in session_members(pid) - {pid}:
            self._add_proc(Path(f"/proc/{child}"), set(), for_children)

    def add_children(self, folder: Path, env: Mapping[str, str]) -> int:
        """Add what ``recording_program`` wrote down; how many runs of it there were."""
        given = {f"{name}={value}".encode() for name, value in env.items()}
        given = {one for one in given if not one.startswith(RESPONSE_VARIABLE.encode())}
        runs = list(folder.glob("child-*"))
        for run in runs:
            self._add_proc(run, set(), given)
        return len(runs)

    def leaks(self, secrets: Secrets) -> dict[str, set[str]]:
        """The names of the secrets that were seen, by where."""
        found = {where: secrets.shown_in(text) for where, text in self.texts.items()}
        return {where: names for where, names in found.items() if names}

    def _add_proc(
        self, folder: Path, given_arguments: set[bytes], given_variables: set[bytes]
    ) -> None:
        try:
            arguments = set((folder / "cmdline").read_bytes().split(b"\0"))
            variables = set((folder / "environ").read_bytes().split(b"\0"))
        except (FileNotFoundError, ProcessLookupError):
            return  # gone meanwhile
        self.add(f"argv of {folder}", b"\0".join(arguments - given_arguments))
        self.add(f"environment of {folder}", b"\0".join(variables - given_variables))


def session_members(pid: int) -> set[int]:
    """The processes of the session that ``pid`` leads."""
    members = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == pid:
            members.add(int(stat.parent.name))
    return members


def recording_program(folder: Path, output: str, *, status: int = 0, says: str = "") -> Path:
    """Write a program that prints ``output``, and writes its own argv and environment down."""
    (folder / "output").write_text(output)
    program = folder / "program"
    program.write_text(
        "#!/bin/sh\n"
        f'seen="{folder}/child-$$"\nmkdir "$seen"\n'
        'cat "/proc/$$/cmdline" >"$seen/cmdline"\ncat "/proc/$$/environ" >"$seen/environ"\n'
        f'cat "{folder}/output"\necho "{says}" >&2\nexit {status}\n'
    )
    program.chmod(0o700)
    return program


class Tap:
    """A TCP relay to ``port`` of this machine that tells what secrets have passed.

    With ``tls`` it ends the TLS of the clients. It is where the clients believe the far end to be.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self._port = port
        self._tls = tls
        self._kept: list[bytearray] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    def tell(self, secrets: Secrets) -> None:
        for name, pattern in ON_THE_WIRE.items():
            for kept in self._kept:
                found = re.findall(pattern, kept)
                secrets.add(name, *map(base64.b64decode, found) if name == "data key" else found)

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        place = f"{'localhost' if self._tls else '127.0.0.1'}:{server.sockets[0].getsockname()[1]}"
        self.url = f"{'https' if self._tls else 'http'}://{place}"
        return server

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self._kept.append(kept)
        try:
            while data := await reader.read(65536):
                kept += data[: KEPT - len(kept)]
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            writer.transport.abort()  # a cut goes through, too
        else:
            writer.close()


@asynccontextmanager
async def tapped(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Tap]:
    """Run a Tap."""
    tap = Tap(port, tls)
    server = await tap.start()
    try:
        yield tap
    finally:
        server.close()
        tap.close()
