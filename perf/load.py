"""A bulk transfer for measurements: ``python -m perf.load upload|download PORT SECONDS``.

Prints a line once it is under way, and at its end the bytes a second.
"""

import socket
import sys
import time

from perf.destination import PIECE, request

WARM_UP = 1024 * 1024


def transfer(what: str, port: int, seconds: float) -> float:
    """Bytes a second."""
    buffer = bytearray(len(PIECE))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request("u" if what == "upload" else "d"))
        started = time.perf_counter()
        moved, told = 0, False
        while time.perf_counter() - started < seconds:
            if what == "upload":
                moved += connection.send(PIECE)
            else:
                moved += connection.recv_into(buffer)
            if not told and moved > WARM_UP:
                told = True
                print("under way", flush=True)
        return moved / (time.perf_counter() - started)


if __name__ == "__main__":
    print(transfer(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])), flush=True)
