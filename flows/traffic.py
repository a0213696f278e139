"""The traffic database as a person's commands ask it: what it cannot answer is refused in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flows.workspace import Refused

if TYPE_CHECKING:
    from components.inference.traffic import Traffic


@contextmanager
def opened(url: str) -> Iterator["Traffic"]:
    """The database behind a URL.

    Raises:
        Refused: it cannot be asked, or does not take what is written.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from components.inference.traffic import Traffic
    from flows.graph import one_line

    try:
        with Traffic(url) as traffic:
            yield traffic
    except SQLAlchemyError as error:
        raise Refused(
            f"the traffic database cannot be asked: {one_line(error)}: start it, or mend TSUMUGI_DATABASE"
        ) from error


def known(serving: Path) -> str | None:
    """The URL of a serving folder's database, unless that is a file which no server has made yet."""
    from components.inference.traffic_tables import database

    url = database(serving)
    return None if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists() else url
