"""What every kind of port session begins with: who the destination is, and whether it may be."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from ipaddress import ip_address

from ..protocol.message import Flag, PayloadType, decode_flag
from .byte_queue import Buffer
from .events import Resolve
from .kind import Emit, End, Kind, Send

# Metadata and other link-local services of the cloud, which the agent never forwards to.
FORBIDDEN = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.169.253",
        "169.254.169.123",
        "169.254.169.250",
        "169.254.169.251",
        "fd00:ec2::254",
        "fd00:ec2::253",
        "fd00:ec2::123",
        "fd00:ec2::240",
    )
)
LOCALHOST = ("127.0.0.1", "::1")

# Beyond this much waiting output the agent stops reading its connections: about what the socket
# between its smux server and its data channel holds.
OUTPUT_LIMIT = 65536

# The agent needs this long from the end of the handshake until it takes input, in seconds.
SETUP_TIME = 0.001


class Port(Kind):
    """A port session: the handshake is done, a destination is known."""

    session_type = "Port"

    def __init__(
        self,
        properties: Mapping[str, str],
        *,
        send: Send,
        emit: Emit,
        end: End,
        setup_time: float = SETUP_TIME,
    ) -> None:
        super().__init__(send=send, emit=emit, end=end)
        self.addresses: tuple[str, ...] = ()
        self.port = int(properties["portNumber"])
        self._host = properties.get("host", "")
        self._setup_time = setup_time
        self._initialize_at: float | None = None
        # Why the last Dial failed.
        self.dial_error = ""

    def start(self, now: float) -> None:
        """The handshake is done."""
        if self._host:
            self._emit(Resolve(self._host))
        else:
            self.addresses = LOCALHOST
            self._initialize_at = now + self._setup_time

    def resolved(self, addresses: tuple[str, ...], now: float) -> None:
        """``host`` has these addresses. They serve until the session ends."""
        if any(ip_address(address.partition("%")[0]) in FORBIDDEN for address in addresses):
            self._end(f"Forwarding to IP address {self._host} is forbidden.")
        else:
            self.addresses = addresses
            self._initialize_at = now + self._setup_time

    def resolve_failed(self, reason: str) -> None:
        """``host`` has no address."""
        self._end(f"lookup {self._host}: {reason}")

    def receive(self, payload_type: int, payload: Buffer) -> None:
        """One in-order message of input. Only called while ready and not blocked."""
        if payload_type == PayloadType.OUTPUT:
            self._receive_output(payload)
        elif payload_type == PayloadType.FLAG:
            self._receive_flag(decode_flag(payload))

    def get_timer(self) -> float | None:
        """When handle_timer is due."""
        return self._initialize_at

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        if self._initialize_at is not None and now >= self._initialize_at:
            self._initialize_at = None
            self._initialize(now)

    def _receive_flag(self, flag: int) -> None:
        if flag == Flag.TERMINATE_SESSION:
            self._end("")

    def take_message(self, size: int) -> tuple[PayloadType, Buffer]:
        """At most ``size`` bytes of output."""
        return PayloadType.OUTPUT, self.take(size)

    @abstractmethod
    def take(self, size: int) -> Buffer:
        """At most ``size`` bytes of output."""

    @abstractmethod
    def dialled(self, connection: int) -> None:
        """A Dial has come about."""

    @abstractmethod
    def dial_failed(self, connection: int) -> None:
        """A Dial has failed, for the reason in ``dial_error``."""

    @abstractmethod
    def _initialize(self, now: float) -> None:
        """The destination is known and allowed: get ready, or dial."""

    @abstractmethod
    def _receive_output(self, payload: Buffer) -> None:
        """Bytes of the client."""
