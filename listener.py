"""The sockets on which the server listens, from the first connection to the last."""

import ctypes
import os
import socket
import struct
import sys
import time
from contextlib import suppress

BACKLOG = 1024  # connections that wait to be accepted, of each socket
STALLED_SECONDS = 30  # after which a client that reads nothing of its answer is dropped
SEND_BUFFER_BYTES = 131_072  # what the system takes of an answer before its client reads
# Between the last SYN that is answered and the end of its handshake: a packet goes around
# the world in some 0.3 s.
HANDSHAKE_SECONDS = 0.5
QUEUE_SECONDS = 5  # to accept those that wait

FIRST_PASSED = 3  # file descriptor, sd_listen_fds(3)
SO_ATTACH_FILTER = 26  # socket(7); Python has no name for it
TCP_INFO_QUEUE = 24  # offset of tcpi_unacked: the length of the queue, of a socket that listens

# A program of the classic BPF that drops packets with the flag SYN, and passes others.
_NO_SYN = struct.pack(
    "HBBI" * 4,
    *(0x30, 0, 0, 13),  # load byte 13 of the TCP header: its flags
    *(0x45, 0, 1, 0x02),  # unless SYN is set, skip one instruction
    *(0x06, 0, 0, 0),  # drop
    *(0x06, 0, 0, 0xFFFFFFFF),  # pass
)


class ListenError(Exception):
    """The address cannot be listened on; the text says which, and why."""


class Listener:
    """One socket for each process, all with the same address, which no other server gets.

    They outlive the processes: a connection that waits in the queue of a process which
    ends is taken by the next process. The system distributes the connections
    (SO_REUSEPORT of Linux; elsewhere, the processes share one socket).

    Args:
        host: name or address.
        port: 0 picks a free one.
        processes: how many will listen.

    Attributes:
        host: address.
        port: as it was picked.

    Raises:
        ListenError: the address is taken, or not one of this machine.
    """

    def __init__(self, host: str, port: int, processes: int) -> None:
        passed = _passed_by_systemd()
        self._is_passed = passed is not None
        if passed is not None:
            self._sockets = [passed]
        else:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                family, *_, address = found[0]
                # Only the first is bound without SO_REUSEPORT: that fails where a second
                # server listens already, of which else each would get some connections.
                self._sockets = [_bound(family, address, is_shared=False)]
                if sys.platform == "linux":
                    address = self._sockets[0].getsockname()
                    self._sockets += [
                        _bound(family, address, is_shared=True) for _ in range(1, processes)
                    ]
            except (OSError, UnicodeError) as error:
                shown = f"[{host}]" if ":" in host else host
                reason = error.strerror if isinstance(error, OSError) else "no such host"
                raise ListenError(f"cannot listen on {shown}:{port}: {reason}") from None
        for each in self._sockets:
            _configure(each)
        name = self._sockets[0].getsockname()
        self.host, self.port = name[:2] if isinstance(name, tuple) else (name, 0)

    @property
    def address(self) -> str:
        """As in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def of_process(self, number: int) -> socket.socket:
        """Return the socket of a process; processes are numbered from 0."""
        return self._sockets[number % len(self._sockets)]

    def leave_others(self, number: int) -> None:
        """In process `number`, close the sockets of the others, and leave its own to the server."""
        own = self.of_process(number)
        for each in self._sockets:
            if each is own:
                self._left = each.detach()
            else:
                each.close()

    def step_back(self) -> None:
        """In the process that has left the others: accept no more connections.

        If other processes have the socket, too, connections stay in its queue for them;
        otherwise it is closed. The server, which has no way to be told, goes on with a
        socket to which nobody connects.
        """
        with socket.socket() as quiet, socket.socket(fileno=os.dup(self._left)) as own:
            quiet.bind(("127.0.0.1", 0))
            quiet.listen()
            quiet.setblocking(False)
            _wait_for_empty_queue(own, QUEUE_SECONDS / 10)
            os.dup2(quiet.fileno(), self._left)

    def refuse(self) -> None:
        """Ignore whoever begins to connect; return when all others have been accepted.

        Where a socket is closed, the connections in its queue are reset. A client that
        is ignored tries again after a second, and finds that nobody listens.
        """
        if self._is_passed or sys.platform != "linux":
            return  # systemd keeps its socket open, and the queue for the next server
        program = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
        fprog = struct.pack("HP", len(_NO_SYN) // 8, ctypes.addressof(program))
        for each in self._sockets:
            # Some systems allow it to root alone. Then those that connect while the socket is
            # closed are reset, within some microseconds.
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
        time.sleep(HANDSHAKE_SECONDS)
        for each in self._sockets:
            _wait_for_empty_queue(each, QUEUE_SECONDS)

    def close(self) -> None:
        for each in self._sockets:
            each.close()


def _passed_by_systemd() -> socket.socket | None:
    """Return the socket that a unit of systemd has opened (sd_listen_fds(3)), or `None`.

    Raises:
        ListenError: it is none that this server can use.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "0")
    if count != "1":
        raise ListenError(f"systemd has passed {count} sockets; the server takes one")
    passed = socket.socket(fileno=FIRST_PASSED)
    if passed.type != socket.SOCK_STREAM or passed.family == socket.AF_UNIX:
        raise ListenError("systemd has passed a socket that is not of TCP")
    return passed


def _bound(family: int, address: object, *, is_shared: bool) -> socket.socket:
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(address)  # type: ignore[arg-type]  # as getaddrinfo has returned it
    if sys.platform == "linux":
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return made


def _configure(listening: socket.socket) -> None:
    """Set what each connection inherits, and listen."""
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if sys.platform == "linux":
        timeout = STALLED_SECONDS * 1000
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)
    listening.listen(BACKLOG)


def _wait_for_empty_queue(listening: socket.socket, seconds: float) -> None:
    end = time.monotonic() + seconds
    while sys.platform == "linux" and _queued(listening) and time.monotonic() < end:
        time.sleep(0.001)


def _queued(listening: socket.socket) -> int:
    """Return how many connections wait to be accepted."""
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_QUEUE + 4)
    (length,) = struct.unpack_from("I", info, TCP_INFO_QUEUE)
    return int(length)
