"""A site for a browser: a page of many parallel parts from several hosts, each unlike any other.

The hosts' names are known to the far end only, see ``NAMES``. The page checks every byte that it
was given, and the site counts what it was asked for.
"""

import random
import ssl
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler

PAGE = "www.internal"
API = "api.internal"
PARTS = ("one.static.internal", "two.static.internal", "three.static.internal", "v6.internal")
# What the far end has to know, as Loopback(names=...) takes it.
NAMES = dict.fromkeys((PAGE, API, *PARTS), "127.0.0.1") | {"v6.internal": "::1"}

IMAGES = 48
SCRIPTS = 16
SIDE = 64  # pixels
LARGE_SIDE = 512  # of every twelfth image: some 700 KB
SCRIPT_SIZE = 20_000
UPLOAD_SIZE = 300_000


class Image(NamedTuple):
    """A PNG, and the Adler-32 of its pixels."""

    png: bytes
    checksum: int


class Site:
    """What the site serves, and what it was asked for: how often for each host and path."""

    def __init__(self, *, secure: bool = False) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self.port = 0
        self._scheme = "https" if secure else "http"
        self._random = random.Random(6)
        self._images = [
            self._image(number, SIDE if number % 12 else LARGE_SIDE) for number in range(IMAGES)
        ]
        self._scripts = [self._random.randbytes(SCRIPT_SIZE // 2).hex() for _ in range(SCRIPTS)]

    @property
    def url(self) -> str:
        return self._url(PAGE)

    def expected(self) -> Counter[tuple[str, str]]:
        """What a browser without a cache asks for to show the page: each part once."""
        images = ((_host(number), f"/image/{number}") for number in range(IMAGES))
        scripts = ((_host(number), f"/script/{number}") for number in range(SCRIPTS))
        return Counter([(PAGE, "/"), *images, *scripts, (API, "/upload"), (API, "/echo")])

    def script(self, number: int) -> str:
        """The text of a script."""
        return f'script({number}, "{self._scripts[number]}");'

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._page),
            web.get("/image/{number}", self._send_image),
            web.get("/script/{number}", self._send_script),
            web.post("/upload", self._upload),
            web.get("/echo", self._echo),
        ]

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note what is asked for."""
        self.asked[request.url.host or "", request.path] += 1
        return await handler(request)

    def _url(self, host: str) -> str:
        return f"{self._scheme}://{host}:{self.port}"

    def _image(self, number: int, side: int) -> Image:
        """A square of a colour by its number, with noise, so that no two are equal."""
        pixels = bytearray(b"\xff" * (side * side * 4))
        for channel in range(3):
            shade = (number * (37, 59, 83)[channel]) % 200
            noise = bytes(shade + value % 48 for value in range(256))
            pixels[channel::4] = self._random.randbytes(side * side).translate(noise)
        rows = (pixels[start : start + side * 4] for start in range(0, len(pixels), side * 4))
        data = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
        header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
        chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
        return Image(b"\x89PNG\r\n\x1a\n" + chunks, zlib.adler32(pixels))

    async def _page(self, _: web.Request) -> web.Response:
        images = "".join(
            f'<img crossorigin src="{self._url(_host(number))}/image/{number}"'
            f' data-checksum="{image.checksum}">\n'
            for number, image in enumerate(self._images)
        )
        scripts = "".join(
            f'<script async src="{self._url(_host(number))}/script/{number}"></script>\n'
            for number in range(SCRIPTS)
        )
        checksums = [zlib.adler32(script.encode()) for script in self._scripts]
        text = _PAGE.format(
            images=images,
            scripts=scripts,
            checksums=checksums,
            api=self._url(API),
            upload_size=UPLOAD_SIZE,
        )
        return web.Response(text=text, content_type="text/html", headers={"Set-Cookie": "a=b"})

    async def _send_image(self, request: web.Request) -> web.Response:
        image = self._images[int(request.match_info["number"])]
        return _part(body=image.png, content_type="image/png")

    async def _send_script(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        return _part(body=self.script(number).encode(), content_type="text/javascript")

    async def _upload(self, request: web.Request) -> web.Response:
        checksum = zlib.adler32(await request.read())
        return _part(body=str(checksum).encode(), content_type="text/plain")

    async def _echo(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(timeout=1)
        await websocket.prepare(request)
        async for message in websocket:
            if message.type is WSMsgType.TEXT:
                await websocket.send_str(message.data)
        return websocket


@asynccontextmanager
async def site_running(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    """Run a site at one port of 127.0.0.1 and ::1, with TLS if there is a context for it."""
    site = Site(secure=tls is not None)
    application = web.Application(middlewares=[site.count], client_max_size=2 * UPLOAD_SIZE)
    application.add_routes(site.routes())
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        site.port = runner.addresses[0][1]
        await web.TCPSite(runner, "::1", site.port, ssl_context=tls).start()
        yield site
    finally:
        await runner.cleanup()


def _host(number: int) -> str:
    """Who serves the part of that number."""
    return PARTS[number % len(PARTS)]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _part(*, body: bytes, content_type: str) -> web.Response:
    # Scripts of the page may look into what comes from the other hosts.
    headers = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-store"}
    return web.Response(body=body, content_type=content_type, headers=headers)


# `finished` gives what is wrong, an empty list at best.
_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>loading</title>
<link rel="icon" href="data:,">
<style>
  body {{ font: 20px sans-serif; margin: 12px; }}
  img {{ width: 72px; height: 72px; margin: 2px; }}
</style>
<script>
  const checksums = {checksums}, scripts = [];
  function adler32(bytes) {{
    let low = 1, high = 0;
    for (const byte of bytes) {{
      low = (low + byte) % 65521;
      high = (high + low) % 65521;
    }}
    return high * 65536 + low;
  }}
  function script(number, text) {{
    scripts[number] = adler32(new TextEncoder().encode(text));
  }}
  function pixels(image) {{
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height).data;
  }}
  async function upload() {{
    const data = new Uint8Array({upload_size}).map((_, index) => index * index >> 3);
    const response = await fetch("{api}/upload", {{method: "POST", body: data}});
    return await response.text() === String(adler32(data));
  }}
  function echo() {{
    return new Promise((resolve) => {{
      const websocket = new WebSocket("{api}/echo".replace("http", "ws"));
      websocket.onopen = () => websocket.send("there and back");
      websocket.onclose = () => resolve(false);
      websocket.onmessage = (event) => {{
        resolve(event.data === "there and back");
        websocket.close();
      }};
    }});
  }}
  async function check() {{
    const images = [...document.images], wrong = [];
    for (const image of images) {{
      const right = image.naturalWidth && adler32(pixels(image)) === Number(image.dataset.checksum);
      if (!right) wrong.push(image.src);
    }}
    checksums.forEach((checksum, number) => {{
      if (scripts[number] !== checksum) wrong.push("script " + number);
    }});
    if (!await upload()) wrong.push("upload");
    if (!await echo()) wrong.push("echo");
    document.title = wrong.length ? "wrong" : "complete";
    document.getElementById("outcome").textContent =
      `${{images.length}} images, ${{scripts.length}} scripts, ${{wrong.length}} wrong`;
    return wrong;
  }}
  const finished = new Promise((resolve, reject) => addEventListener("load", () =>
    check().then(resolve, (error) => resolve([String(error)]))));
</script>
<h1 id="outcome">loading</h1>
{images}{scripts}"""
