"""Draws a byte's way through ssmnet, AWS and the target::

    python3 run.py python -m docs.pictures.architecture

makes ``docs/pictures/architecture.svg``.
"""

from docs.pictures.svg import Picture, save

LEFT, RIGHT = 172, 712  # where the two columns begin
WIDTH, NARROW = 288, 172  # of a layer; of one beside the way of an application
HEIGHT, STEP = 46, 67
TOP = 136
GATEWAY = 600
# The rows of the left column, from the top.
LISTENER, FORWARDER, TRANSPORT, MULTIPLEXER, CHANNEL, WEBSOCKET = range(6)


def draw() -> dict[str, str]:
    """The picture, by its name."""
    picture = Picture(
        976,
        700,
        "A byte's way through ssmnet",
        "From a program through the layers of ssmnet (Listener, Forwarder, StreamTransport, "
        "Multiplexer, DataChannel, WebSocket) to AWS's message gateway, from there to the agent "
        "on the target, and up through the same layers there to the destination.",
        size=15,
    )
    zones(picture)
    near_side(picture)
    life(picture)
    far_side(picture)
    peers(picture)
    gateway(picture)
    return {"architecture.svg": str(picture)}


def row(number: int) -> float:
    """Where a row of the left column begins."""
    return TOP + number * STEP


def zones(picture: Picture) -> None:
    """The three places."""
    bottom = row(WEBSOCKET) + HEIGHT + 16
    picture.rect(20, TOP - 20, 456, bottom - TOP + 20, "tint-blue", radius=10)
    picture.text(36, TOP + 10, "ssmnet", "fill-blue strong")
    picture.text(36, TOP + 28, "one process,", "muted small")
    picture.text(36, TOP + 46, "one event loop", "muted small")
    top = row(TRANSPORT) - 32
    picture.rect(696, top, 260, bottom - top, "tint-green", radius=10)
    picture.text(712, top + 20, "the agent", "fill-green strong")
    picture.rect(20, GATEWAY - 28, 936, 106, "tint-orange", radius=10)
    picture.text(36, GATEWAY - 4, "AWS", "fill-orange strong")


def layer(
    picture: Picture, x: float, y: float, width: float, name: str, what: str, hue: str
) -> None:
    """One layer: its name, and what it does."""
    picture.rect(x, y, width, HEIGHT, f"box line-{hue}")
    picture.text(x + width / 2, y + 19, name, "ink strong", anchor="middle")
    picture.text(x + width / 2, y + 36, what, "muted small", anchor="middle")


def near_side(picture: Picture) -> None:
    """From a program to the WebSocket."""
    layer(picture, LEFT, 28, NARROW, "a program", "psql, ssh, a browser", "grey")
    layer(picture, LEFT + NARROW + 8, 28, WIDTH - NARROW - 8, "asyncio", "no port", "grey")
    rows = (
        (LISTENER, NARROW, "Listener", "127.0.0.1:5432"),
        (FORWARDER, NARROW, "Forwarder", "joins two peers"),
        (TRANSPORT, WIDTH, "StreamTransport", "one stream, as asyncio knows it"),
        (MULTIPLEXER, WIDTH, "Multiplexer", "streams take turns, in smux frames"),
        (CHANNEL, WIDTH, "DataChannel", "numbers, order, window, repeats"),
        (WEBSOCKET, WIDTH, "WebSocket", "a burst of messages is one write"),
    )
    for number, width, name, what in rows:
        layer(picture, LEFT, row(number), width, name, what, "blue")
    middle = LEFT + NARROW / 2
    for y in (28, row(LISTENER), row(FORWARDER)):
        below = row(LISTENER) if y == 28 else y + STEP
        arrow(picture, middle, y + HEIGHT, below)
    side = LEFT + NARROW + 8 + (WIDTH - NARROW - 8) / 2
    arrow(picture, side, 28 + HEIGHT, row(TRANSPORT))
    for number in (TRANSPORT, MULTIPLEXER, CHANNEL):
        arrow(picture, LEFT + WIDTH / 2, row(number) + HEIGHT, row(number + 1))
    arrow(picture, LEFT + WIDTH / 2, row(WEBSOCKET) + HEIGHT, GATEWAY)


def arrow(picture: Picture, x: float, above: float, below: float) -> None:
    """Bytes, both ways."""
    picture.path(f"M {x:g} {above + 1.5:g} V {below - 1.5:g}", "blue", start=True, end=True)


def life(picture: Picture) -> None:
    """What keeps the way open, beside it."""
    x, width = 36, 118
    layer(picture, x, row(FORWARDER), width, "SessionPool", "starts another", "purple")
    layer(picture, x, row(CHANNEL), width, "Session", "resumes", "purple")
    picture.path(
        f"M {x + width / 2} {row(FORWARDER) + HEIGHT} V {row(CHANNEL) - 1}",
        "purple",
        width=1.5,
        end=True,
    )
    for number in (FORWARDER, CHANNEL):
        y = row(number) + HEIGHT / 2
        picture.path(f"M {x + width} {y} H {LEFT - 1}", "purple", width=1.5, dashed=True)
    picture.path(
        f"M {x + width / 2} {row(CHANNEL) + HEIGHT} V {GATEWAY + 16}", "purple", width=1.5, end=True
    )


def far_side(picture: Picture) -> None:
    """From the WebSocket to the destination."""
    layer(picture, RIGHT, 28, 228, "the destination", "db.internal:5432", "grey")
    rows = (
        (TRANSPORT, "connections", "that the agent has made"),
        (MULTIPLEXER, "smux", "a stream for each of them"),
        (CHANNEL, "data channel", "1,024 bytes a message"),
        (WEBSOCKET, "WebSocket", "it called AWS, as we did"),
    )
    for number, name, what in rows:
        layer(picture, RIGHT, row(number), 228, name, what, "green")
        if number != TRANSPORT:
            arrow(picture, RIGHT + 114, row(number - 1) + HEIGHT, row(number))
    arrow(picture, RIGHT + 114, 28 + HEIGHT, row(TRANSPORT))
    arrow(picture, RIGHT + 114, row(WEBSOCKET) + HEIGHT, GATEWAY)


def peers(picture: Picture) -> None:
    """What equal layers say to each other."""
    told = (
        (28, LEFT + WIDTH, "bytes, both ways", ""),
        (row(MULTIPLEXER), LEFT + WIDTH, "frames", "of streams 3, 5, 7 ..."),
        (row(CHANNEL), LEFT + WIDTH, "messages", "numbered, acknowledged"),
    )
    for y, begin, name, what in told:
        height = y + HEIGHT / 2
        middle = (begin + RIGHT) / 2
        picture.path(
            f"M {begin + 6:g} {height:g} H {RIGHT - 6}", "grey", width=1.5, dashed=True,
            start=True, end=True,
        )  # fmt: skip
        picture.text(middle, height - 8, name, "ink small", anchor="middle")
        picture.text(middle, height + 18, what, "muted small", anchor="middle")
    words = "TLS to port 443, never a connection inwards"
    picture.text(
        (LEFT + WIDTH / 2 + RIGHT + 114) / 2, GATEWAY - 40, words, "muted small", anchor="middle"
    )


def gateway(picture: Picture) -> None:
    """What AWS does between the two."""
    picture.rect(36, GATEWAY + 16, 118, HEIGHT, "box line-orange")
    picture.text(95, GATEWAY + 35, "SSM API", "ink strong", anchor="middle")
    picture.text(95, GATEWAY + 52, "start, resume", "muted small", anchor="middle")
    picture.rect(LEFT, GATEWAY, 768, 62, "box line-orange")
    picture.text(556, GATEWAY + 26, "message gateway (ssmmessages)", "ink strong", anchor="middle")
    words = (
        "passes on the messages of a session's two WebSockets, and closes ours about once an hour"
    )
    picture.text(556, GATEWAY + 46, words, "muted small", anchor="middle")


if __name__ == "__main__":
    save(draw())
