"""What is asked of the gate, as values: a verb, and what it is about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sampan.engine.policy.caller import Owner
from sampan.engine.policy.model import VM, Facts


class Kind(Enum):
    """What an operation is about."""

    CONTAINER = "container"
    EXEC = "exec instance"
    MACHINE = "virtual machine"
    IMAGE = "image"
    TAG = "name of an image"
    VOLUME = "volume"
    NETWORK = "network"
    SESSION = "session of a build"
    PATH = "path of the host"
    ENGINE = "engine"


class Verb(Enum):
    """What is done. One that no rule knows for a kind is refused."""

    SEE = "see"
    LIST = "list"
    CREATE = "create"
    START = "start"
    CONTROL = "control"
    REMOVE = "remove"
    EXEC = "exec"
    ATTACH = "attach"
    LOGS = "logs"
    READ = "read"
    WRITE = "write"
    COMMIT = "commit"
    UPDATE = "update"
    RENAME = "rename"
    CONNECT = "connect"
    SHARE = "share"  # namespaces, volumes or names of another container
    USE = "use"
    BUILD = "build"
    STEP = "build step"
    PULL = "pull"
    PUSH = "push"
    TAG = "tag"
    LOAD = "load"
    SAVE = "save"
    PRUNE = "prune"
    COMPARE = "compare"
    BOOTSTRAP = "bootstrap, which runs packages' scripts as root,"
    EXPORT = "export"
    SNAPSHOT = "snapshot"
    INFORM = "inform"
    ADMINISTER = "administer"


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing. Without owners it is the engine's; several users may have one image."""

    kind: Kind
    id: str = ""
    owners: tuple[Owner, ...] = ()
    isolation: str = VM  # of a container: CONTAINER when it shares the host's kernel


ENGINE = Subject(Kind.ENGINE)


@dataclass(frozen=True, slots=True)
class Operation:
    """The whole question. `facts` are those of the container, build step or machine that would run; `extra` what is asked for beyond
    what the subject is (a privileged exec)."""

    verb: Verb
    subject: Subject
    facts: Facts | None = None
    extra: tuple[str, ...] = ()
