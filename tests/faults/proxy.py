"""A TCP proxy between two processes of ours: the network, which a test may cut, or silence."""

import contextlib
import socket
import threading


class Proxy:
    """Forwards to a port of this machine. `silence` loses nothing but lets nothing pass; `cut` breaks what there is."""

    def __init__(self, target: int, address: str = "127.0.0.1") -> None:
        self._target = target
        self._listener = socket.create_server((address, 0))
        self.port = int(self._listener.getsockname()[1])
        self._open = threading.Event()
        self._open.set()
        self._refusing = False
        self._withheld: bytes | None = None
        self._missed = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def silence(self) -> None:
        """From now on packets are on their way for ever; connections stay."""
        self._open.clear()

    def withhold(self, command: bytes) -> None:
        """From now on what names a command gets no further, and no answer; all else does. Returns when one was lost."""
        self._withheld = command
        assert self._missed.wait(30), f"nobody sends {command!r}"

    def cut(self) -> None:
        """Breaks every connection, and each new one."""
        self._refusing = True
        self._break()

    def heal(self) -> None:
        """All that waits arrives; new connections come through."""
        self._refusing = False
        self._withheld = None
        self._missed.clear()
        self._open.set()

    def close(self) -> None:
        """Ends the proxy."""
        self._listener.close()
        self._open.set()
        self._break()

    def _break(self) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for sock in sockets:
            _end(sock)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                _end(near)
                continue
            threading.Thread(target=self._join, args=(near,), name="proxy-join", daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._open.wait()  # a network that loses everything loses the handshake too
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=10)
        except OSError:
            _end(near)
            return
        far.settimeout(None)
        with self._lock:
            self._sockets |= {near, far}
        back = threading.Thread(target=self._copy, args=(far, near), name="proxy-copy", daemon=True)
        back.start()
        self._copy(near, far)
        back.join()
        with self._lock:
            self._sockets -= {near, far}
        near.close()
        far.close()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                if self._withheld is not None and self._withheld in data:
                    self._missed.set()
                else:
                    sink.sendall(data)
        _shut(source)
        _shut(sink)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _end(sock: socket.socket) -> None:
    _shut(sock)
    sock.close()
