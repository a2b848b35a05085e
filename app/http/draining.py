"""How a server ends without failing a request.

A process that is about to end closes the connection with each answer: its clients open a
new one, which another process or another server takes.
"""

import mmap

# In the environ of a request: a function that returns whether the server is about to end.
IS_STOPPING = "microblog.is_stopping"


class Draining:
    """What the processes of a server know about their end, in memory that they share."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 2)  # whether it stops; a number of the newest processes

    @property
    def generation(self) -> int:
        """The number of the newest processes."""
        return self._shared[1]

    def stop(self) -> None:
        self._shared[0] = 1

    def is_stopping(self) -> bool:
        return self._shared[0] == 1

    def replace_processes(self) -> None:
        self._shared[1] = (self._shared[1] + 1) % 256

    def is_over(self, generation: int) -> bool:
        """Return whether processes of this generation are about to end."""
        return self._shared[0] == 1 or self._shared[1] != generation
