"""An API as the Flask Mega-Tutorial ends with in chapter 23, written anew for the tests.

    python -m tests.tutorial --database URL [--edition 2018|2021|2024] [--fill] [--port N]

Creates the tables of that edition, and serves its API if a port is given. It has the
faults of the tutorial, and the tests depend on them: correct none.
"""

from tests.tutorial.application import EDITIONS, create_app, fill

__all__ = ["EDITIONS", "create_app", "fill"]
