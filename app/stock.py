"""The tables of the models that are here: where their files are, and what they are called."""

from enum import StrEnum
from typing import Any

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.tables import Base


class Standing(StrEnum):
    """How it stands with a model."""

    READY = "ready"  #: its files are here
    MISSING = "missing"  #: its files are gone; they may come back, with a disk that was not mounted
    REMOVING = "removing"  #: it is being deleted; whoever finds it so goes on with that
    HIDDEN = "hidden"  #: it was removed from the list, and its files are another tool's: a scan does not list it again


class Model(Base):
    """A model whose files are on this machine."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    format: Mapped[str] = mapped_column(String(16))
    size_bytes: Mapped[int]
    quantize: Mapped[str] = mapped_column(String(8), default="auto")
    source: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float]
    state: Mapped[str] = mapped_column(String(16), default=Standing.READY, server_default="ready")
    #: Where it was pulled from; None where it was not.
    repo: Mapped[str | None] = mapped_column(String(200))
    revision: Mapped[str | None] = mapped_column(String(200))
    #: What its own files say of it, as inference.about.Facts has it. `fetched`: the files of the hub's cache that we
    #: downloaded for it, relative to that cache; nothing else of the cache is ours to delete.
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    #: The devices that operators bound it to; empty: any.
    devices: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    #: Seconds that it stays loaded without work; None: the setting's, below 0: for ever.
    keep_alive: Mapped[float | None]
    #: What they tell its engines: app.engine_options has the table.
    engine_options: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")


class Copy(Base):
    """Where a node that keeps models on its own disk (OWN_STORE) has the files of one."""

    __tablename__ = "copies"

    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    node: Mapped[str] = mapped_column(String(200), primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    format: Mapped[str] = mapped_column(String(16))
    #: The commit that it was pulled at: of another one than the model's, it has to be pulled again.
    revision: Mapped[str | None] = mapped_column(String(200))
    #: What tells which of its files are ours to delete, as in the model's facts.
    facts: Mapped[dict[str, Any]]


class Alias(Base):
    """A further name for a model, usable wherever a model is named."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    target: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[float]
    #: `user`, or `scan`: such a one goes with the model that it was found with.
    source: Mapped[str] = mapped_column(String(16), default="user", server_default="user")
