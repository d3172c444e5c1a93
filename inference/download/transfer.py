"""The hub's file bodies: range requests, and redirects to no host that was not foreseen.

urllib3, because a body goes from the socket to the disk with one copy: 2 GB over loopback take 1.0 s of it, 3.7 s of
httpx2 and 7.7 s of httpx (docs/decisions/).
"""

import ssl
import urllib.request
from urllib.parse import urljoin, urlsplit

import httpx2
import urllib3
from huggingface_hub import get_token
from huggingface_hub.utils._headers import build_hf_headers
from urllib3.response import BaseHTTPResponse

from inference.download.errors import DownloadError, RefusedError, refused_redirect
from inference.download.order import Order, credentials

#: Where Hugging Face keeps its files. Its mirrors send their clients there too.
STORES = ("huggingface.co", "hf.co")
#: The hub's content network serves no more than 50 GB at a time, so larger files come in windows, in bytes.
WINDOW = 40 << 30
CONNECT_SECONDS = 10.0
#: Files that are fetched at once: one connection to a content network rarely fills a fast line.
CONNECTIONS = 4
MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Hub:
    """One hub, asked with one credential, which never leaves it."""

    def __init__(self, order: Order) -> None:
        self._endpoint = order.endpoint
        self._hosts = {urlsplit(order.endpoint).hostname, *order.hosts}
        self._timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=order.stall)
        self._headers = build_hf_headers(token=get_token(), library_name="tokenyard")
        if own := credentials():
            self._headers |= urllib3.make_headers(basic_auth=":".join(own))
        self._context = httpx2.create_ssl_context()
        self._pools: dict[str, urllib3.PoolManager] = {}

    def open(self, url: str, start: int, size: int) -> BaseHTTPResponse:
        """The body of a file of that size, from a byte on; perhaps not to its end, and perhaps from its beginning.

        Status 206 means that it starts where it was asked to. Raises RefusedError, DownloadError, urllib3's errors.
        """
        headers = {"Accept-Encoding": "identity"}
        if start or size > WINDOW:
            end = f"{min(size, start + WINDOW) - 1}" if size - start > WINDOW else ""
            headers["Range"] = f"bytes={start}-{end}"
        for _ in range(MOST_REDIRECTS + 1):
            response = self._get(url, headers)
            target = response.headers.get("Location") if response.status in _REDIRECTS else None
            if target is None:
                return _accepted(response)
            response.drain_conn()
            response.release_conn()
            url = self._followed(url, target)
        raise DownloadError("redirect_refused", f"{self._endpoint} sends the download around in circles.")

    def _get(self, url: str, headers: dict[str, str]) -> BaseHTTPResponse:
        own = dict(self._headers) if _origin(url) == _origin(self._endpoint) else {}
        agent = {"user-agent": self._headers["user-agent"]}
        return self._pool(url).request(
            "GET",
            url,
            headers=agent | own | headers,
            timeout=self._timeout,
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
        )

    def _followed(self, url: str, target: str) -> str:
        target = urljoin(url, target)
        parts = urlsplit(target)
        host = parts.hostname or ""
        known = host in self._hosts or any(host == store or host.endswith(f".{store}") for store in STORES)
        safe = parts.scheme == "https" or (parts.scheme == "http" and urlsplit(url).scheme == "http")
        if known and safe:
            return target
        raise refused_redirect(self._endpoint, f"{parts.scheme}://{host}")

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Connections to a host, by way of HTTPS_PROXY and its like where they are set."""
        parts = urlsplit(url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy is None or urllib.request.proxy_bypass(parts.netloc):
            proxy = ""
        if proxy not in self._pools:
            self._pools[proxy] = _pool_manager(proxy, self._context)
        return self._pools[proxy]


def _pool_manager(proxy: str, context: ssl.SSLContext) -> urllib3.PoolManager:
    if not proxy:
        return urllib3.PoolManager(ssl_context=context, maxsize=CONNECTIONS)
    auth = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=auth) if auth else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, ssl_context=context, maxsize=CONNECTIONS)


def _accepted(response: BaseHTTPResponse) -> BaseHTTPResponse:
    if response.status in (200, 206):
        return response
    response.drain_conn()
    response.release_conn()
    raise RefusedError(response.status, response.headers)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
