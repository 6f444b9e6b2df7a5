"""The protocol's messages, described here field by field and made into classes by protobuf.

Numbers and names are those of BuildKit's control, gateway, worker, caps and session services, and of fsutil's wire
format; fields that nobody here reads or writes are left out, which protobuf allows.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES, "bool": _FIELD.TYPE_BOOL, "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64, "uint32": _FIELD.TYPE_UINT32,
}  # fmt: skip
# Message: then "name=number:type"; "*" repeats, "{T}" is a map from string to T, other types are messages of this list.
_TABLE = """
Empty
BytesMessage data=1:bytes
Time seconds=1:int64 nanos=2:int32
Stat path=1:string mode=2:uint32 uid=3:uint32 gid=4:uint32 size=5:int64 modTime=6:int64 linkname=7:string devmajor=8:int64 devminor=9:int64 xattrs=10:{bytes}
Packet type=1:int32 stat=2:Stat ID=3:uint32 data=4:bytes
Platform Architecture=1:string OS=2:string Variant=3:string
Version package=1:string version=2:string revision=3:string
Worker ID=1:string Labels=2:{string} platforms=3:*Platform BuildkitVersion=5:Version
ListWorkersResponse record=1:*Worker
InfoResponse buildkitVersion=1:Version
ExporterEntry Type=1:string Attrs=2:{string}
ControlSolveRequest Ref=1:string Exporter=3:string ExporterAttrs=4:{string} Session=5:string Frontend=6:string FrontendAttrs=7:{string} Entitlements=9:*string Exporters=13:*ExporterEntry
ControlSolveResponse ExporterResponse=1:{string}
StatusRequest Ref=1:string
Vertex digest=1:string inputs=2:*string name=3:string cached=4:bool started=5:Time completed=6:Time error=7:string
VertexLog vertex=1:string timestamp=2:Time stream=3:int64 msg=4:bytes
VertexWarning vertex=1:string level=2:int64 short=3:bytes
StatusResponse vertexes=1:*Vertex logs=3:*VertexLog warnings=4:*VertexWarning
UsageRecord ID=1:string Mutable=2:bool InUse=3:bool Size=4:int64 CreatedAt=6:Time LastUsedAt=7:Time UsageCount=8:int64 Description=9:string RecordType=10:string
DiskUsageResponse record=1:*UsageRecord
PruneRequest filter=1:*string all=2:bool keepDuration=3:int64 reservedSpace=4:int64 maxUsedSpace=5:int64 minFreeSpace=6:int64
APICap ID=1:string Enabled=2:bool
PongResponse FrontendAPICaps=1:*APICap LLBCaps=2:*APICap Workers=3:*Worker
BridgeSolveRequest Frontend=2:string FrontendOpt=3:{string} allowResultReturn=5:bool allowResultArrayRef=6:bool
Ref id=1:string
Result refDeprecated=1:string ref=3:Ref metadata=10:{bytes}
BridgeSolveResponse ref=1:string result=3:Result
RpcStatus code=1:int32 message=2:string
ReturnRequest result=1:Result error=2:RpcStatus
GetSecretRequest ID=1:string
GetSecretResponse data=1:bytes
CredentialsRequest Host=1:string
CredentialsResponse Username=1:string Secret=2:string
CheckAgentRequest ID=1:string
"""


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="sampan_buildkit.proto", package="sampan.buildkit", syntax="proto3")
    names = []
    for line in _TABLE.strip().splitlines():
        name, *fields = line.split()
        names.append(name)
        message = file.message_type.add(name=name)
        for text in fields:
            _add_field(message, *text.replace(":", "=", 1).split("="))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[attr-defined,unused-ignore]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"sampan.buildkit.{name}")) for name in names
    }


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: str, kind: str) -> None:
    made = message.field.add(name=name, number=int(number), label=_FIELD.LABEL_OPTIONAL)
    if kind.startswith("{"):
        entry = message.nested_type.add(name=f"{name[:1].upper()}{name[1:]}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_FIELD.LABEL_OPTIONAL, type=_FIELD.TYPE_STRING)
        entry.field.add(name="value", number=2, label=_FIELD.LABEL_OPTIONAL, type=_SCALARS[kind[1:-1]])
        made.label, made.type = _FIELD.LABEL_REPEATED, _FIELD.TYPE_MESSAGE
        made.type_name = f".sampan.buildkit.{message.name}.{entry.name}"
        return
    if kind.startswith("*"):
        made.label, kind = _FIELD.LABEL_REPEATED, kind[1:]
    if kind in _SCALARS:
        made.type = _SCALARS[kind]
    else:
        made.type, made.type_name = _FIELD.TYPE_MESSAGE, f".sampan.buildkit.{kind}"


_CLASSES = _build()


def new(name: str, /, **fields: object) -> Any:
    """A message of the list."""
    return _CLASSES[name](**fields)


def kind(name: str) -> Any:
    """The class of a message."""
    return _CLASSES[name]
