import contextlib
import select
import socket
import threading


class Relay:
    """A TCP relay to a PostgreSQL server: it can close all connections, or drop all data.

    Attributes:
        round_trips: how often the client has sent something after the last answer.
    """

    def __init__(self, host, port):
        self.target = (host, port)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.connections = []
        self.mode = "open"
        self.round_trips = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                if self.mode == "cut":
                    client.close()
                    continue
                server = socket.create_connection(self.target)
                self.connections += [client, server]
                threading.Thread(target=self._pump, args=(client, server), daemon=True).start()

    def _pump(self, client, server):
        last = server
        with client, server, contextlib.suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    self.round_trips += source is client and last is server
                    last = source
                    if self.mode != "silent":
                        (server if source is client else client).sendall(data)

    def cut(self):
        self.mode = "cut"
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def close(self):
        self.cut()
        self.socket.close()
