"""The tables of traffic, by SQLAlchemy Core, and the way to their database: SQLite, or PostgreSQL by one variable."""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
    create_engine,
    event,
)

metadata = MetaData()


def _id(name: str, **options: Any) -> Column[str]:
    return Column(name, Uuid(as_uuid=False), **options)


requests = Table(
    "requests",
    metadata,
    _id("id", primary_key=True),
    Column("time", Float(53), nullable=False),
    Column("user", String(64), nullable=False),  # SHA-256 of key and client
    Column("name", String(200), nullable=False),
    Column("version", String(200), nullable=False),
    Column("commit", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("experiment", String(200)),
    Column("route", String(200), nullable=False),
    Column("status", Integer, nullable=False),  # HTTP's; 499: the client went away
    Column("seconds", Float(53), nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("input", JSON),
    Column("output", JSON),
    Index("requests_by_name", "name", "time"),
    Index("requests_by_experiment", "experiment", "time"),
)
outcomes = Table(
    "outcomes",
    metadata,
    Column("number", Integer, primary_key=True),
    _id("request", nullable=False, index=True),
    Column("metric", String(200), nullable=False),
    Column("value", Float(53), nullable=False),
    Column("time", Float(53), nullable=False),
)
feedback = Table(
    "feedback",
    metadata,
    _id("id", primary_key=True),
    _id("request", nullable=False, index=True),
    Column("thumb", Integer, nullable=False),  # -1 or 1
    Column("comment", Text, nullable=False),
    Column("time", Float(53), nullable=False),
)
experiments = Table(
    "experiments",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("champion", String(200), nullable=False),  # versions
    Column("challenger", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("config", JSON),
    Column("verdict", JSON),
    Column("started", Float(53)),
    Column("ended", Float(53)),
)


def database(serving: Path) -> str:
    """TSUMUGI_DATABASE, or SQLite beside the pointers."""
    return os.environ.get("TSUMUGI_DATABASE") or f"sqlite:///{serving.resolve() / 'traffic.db'}"


def connect(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)  # a restarted server's connections are replaced
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _readers_do_not_wait(connection: Any, _: object) -> None:
        connection.execute("PRAGMA busy_timeout=10000")  # first: the next line may have to wait
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing; a lost power a second

    return engine
