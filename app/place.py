"""Where a process is: its node, and which processes it can see there."""

import os

#: Between a node's name and the number of its processes' namespace.
IN = "/"


def place_of(node: str) -> str:
    """A life's `host`: pids mean the same to all processes of one place. A container is a place of its own."""
    try:
        return f"{node}{IN}{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # no Linux: no such namespaces
        return node


def node_of(place: str) -> str:
    """The node that a place is on."""
    return place.partition(IN)[0]
