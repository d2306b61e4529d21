"""Draws how a slow reader stops a fast writer, each way::

    python3 run.py python -m docs.pictures.flow_control

makes ``docs/pictures/flow-control.svg``. The limits are the code's own.
"""

from typing import NamedTuple

from docs.pictures.svg import Picture, save
from ssmnet.driver import READ_LIMIT
from ssmnet.protocol.congestion import INITIAL_WINDOW
from ssmnet.protocol.window import MAX_BYTES
from ssmnet.transport import HIGH_WATER

LEFT, WIDTH, GAP, HEIGHT = 22, 148, 48, 64
KIB, MIB = 1024, 1024 * 1024


class Stage(NamedTuple):
    """Where bytes may wait: how many, and what makes the one before it wait."""

    name: str
    limit: str
    signal: tuple[str, str] = ("", "")
    ours: bool = True


UP = (
    Stage("a program", "writes", ours=False),
    Stage("local socket", "the system's buffer", ("TCP's own", "window")),
    Stage("the stream", f"{HIGH_WATER // KIB} KiB", ("pause", "reading")),
    Stage("the window", f"{INITIAL_WINDOW // KIB} KiB to {MAX_BYTES // MIB} MiB", ("no turn", "")),
    Stage("the agent", "writes, confirms", ("not", "confirmed"), ours=False),
)
DOWN = (
    Stage("a program", "reads", ours=False),
    Stage("local socket", "the system's buffer", ("full", "")),
    Stage("the session", f"{READ_LIMIT // MIB} MiB, all streams", ("pause", "writing")),
    Stage("the WebSocket", "is not read", ("pause", "reading")),
    Stage("gateway, agent", "no window", ("TCP's own", "window"), ours=False),
)


def draw() -> dict[str, str]:
    """The picture, by its name."""
    picture = Picture(
        976,
        386,
        "How a slow reader stops a fast writer",
        "Up: the agent's acknowledgements open the window, the window gives streams their turn, a "
        "stream that is full stops the reading of its local socket. Down: a program that does not "
        "read fills its socket, then the session's share, and then the WebSocket is not read.",
        size=15,
    )
    picture.text(LEFT, 36, "An upload: each stream waits by itself", "ink strong")
    lane(picture, UP, 54, up=True)
    picture.text(LEFT, 204, "A download: the streams of a session wait together", "ink strong")
    lane(picture, DOWN, 222, up=False)
    y = 366
    picture.path(f"M {LEFT} {y - 4} h 34", "blue", end=True)
    picture.text(LEFT + 44, y, "bytes", "muted small")
    picture.path(f"M {LEFT + 110} {y - 4} h 34", "orange", end=True, dashed=True)
    picture.text(LEFT + 154, y, "what says: wait", "muted small")
    return {"flow-control.svg": str(picture)}


def lane(picture: Picture, stages: tuple[Stage, ...], top: float, *, up: bool) -> None:
    """The stages in a row; bytes flow to the right in an upload, to the left in a download."""
    for number, stage in enumerate(stages):
        x = LEFT + number * (WIDTH + GAP)
        picture.rect(x, top, WIDTH, HEIGHT, "tint-blue" if stage.ours else "tint-grey")
        middle = x + WIDTH / 2
        picture.text(middle, top + 27, stage.name, "ink strong", anchor="middle")
        picture.text(middle, top + 46, stage.limit, "muted small", anchor="middle")
        if number:
            between(picture, x - GAP, top, stage.signal, up=up)


def between(picture: Picture, x: float, top: float, signal: tuple[str, str], *, up: bool) -> None:
    """Bytes one way, and what says: wait, the other way."""
    picture.path(f"M {x + 5} {top + 22} h {GAP - 10}", "blue", start=not up, end=up)
    picture.path(f"M {x + 5} {top + 42} h {GAP - 10}", "orange", start=up, end=not up, dashed=True)
    for line, words in enumerate(signal):
        y = top + HEIGHT + 18 + 15 * line
        picture.text(x + GAP / 2, y, words, "fill-orange small", anchor="middle")


if __name__ == "__main__":
    save(draw())
