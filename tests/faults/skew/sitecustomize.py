"""Found first on a process's path, this makes its clock wrong by SKEW_SECONDS; the monotonic one goes as it goes."""

import os
import time

_skew = float(os.environ.get("SKEW_SECONDS", "0"))
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _skew
time.time_ns = lambda: _time_ns() + int(_skew * 1e9)
