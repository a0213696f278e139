"""Serves what the pointers name, until it is told to stop:

    python -m flows.stages.serving --serving .store/serving --keys keys.json [--pictures data/shards/world/test]
    python -m flows.stages.serving new-key keys.json NAME       prints a new key, once

No stage of the graph. One process; on SIGTERM it takes no new requests, lets those that run end, and writes down what
it has to. `--keys none` serves without keys, on a loopback address only.
"""

import argparse
import ipaddress
import logging
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from components.inference.server.keys import new_key, read
from components.inference.server.settings import Limits, Settings

DRAIN = 30  # seconds that running requests have to end in
BACKLOG = 2048  # connections that wait to be accepted


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until a signal comes. port 0: a free one, which is printed.

    Raises:
        ValueError: no keys and not a loopback address; or what create_app raises.
    """
    if settings.keys is None and not is_loopback(host):
        raise ValueError(f"--host {host} can be reached by others: name a file of keys, or serve on 127.0.0.1")
    if settings.keys:
        read(settings.keys)  # a bad file is told before torch is loaded
    import torch
    import uvicorn

    from components.inference.server.app import create_app
    from flows.stages.loaders import load

    torch.set_num_threads(settings.threads)
    app = create_app(settings, partial(load, device=torch.device(settings.device)))
    listener = socket.create_server((host, port), backlog=BACKLOG, family=_family(host))
    address = f"[{host}]" if ":" in host else host
    print(f"serving {settings.serving} on http://{address}:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        app,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address that a client writes itself is no address
        log_config=None,
        timeout_graceful_shutdown=DRAIN,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again once all has ended
    uvicorn.Server(config).run(sockets=[listener])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["new-key"] and len(arguments) == 3:
        print(new_key(Path(arguments[1]), arguments[2]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--serving", type=Path, default=Path(".store/serving"), metavar="DIR", help="pointer files")
    parser.add_argument("--keys", required=True, metavar="FILE", help="hashed API keys; none: open, on 127.0.0.1 only")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 for a free one")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="what is searched: shards or picture files")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default: 1)")
    parser.add_argument("--slots", type=int, default=16, metavar="N", help="streams decoded together (default: 16)")
    parser.add_argument(
        "--rate", type=float, default=100.0, metavar="N", help="requests a second and key (default: 100)"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(
        Settings(
            serving=given.serving,
            keys=None if given.keys == "none" else Path(given.keys),
            pictures=given.pictures,
            device=given.device,
            threads=given.threads,
            slots=given.slots,
            limits=Limits(rate=given.rate, burst=4 * given.rate),
        ),
        given.host,
        given.port,
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
