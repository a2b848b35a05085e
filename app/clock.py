"""The one place that reads the time."""

import time
from datetime import UTC, datetime
from functools import partial

# utc_now() is the time as an aware `datetime` in UTC. A partial, and no function of its
# own, because every request reads the clock several times.
utc_now = partial(datetime.now, UTC)

# Seconds since 1970.
unix_now = time.time

# Seconds since any moment in the past, for pauses: it cannot be set back.
monotonic_now = time.monotonic
