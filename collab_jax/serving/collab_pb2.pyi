from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MetadataRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MetadataReply(_message.Message):
    __slots__ = ("version", "model", "quantizers", "images", "prompt", "max_tokens", "max_message_bytes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    QUANTIZERS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    version: str
    model: str
    quantizers: str
    images: str
    prompt: str
    max_tokens: int
    max_message_bytes: int
    def __init__(self, version: _Optional[str] = ..., model: _Optional[str] = ..., quantizers: _Optional[str] = ..., images: _Optional[str] = ..., prompt: _Optional[str] = ..., max_tokens: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...

class HandshakeRequest(_message.Message):
    __slots__ = ("session", "prompt", "max_tokens", "encoder")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    session: str
    prompt: str
    max_tokens: int
    encoder: str
    def __init__(self, session: _Optional[str] = ..., prompt: _Optional[str] = ..., max_tokens: _Optional[int] = ..., encoder: _Optional[str] = ...) -> None: ...

class HandshakeReply(_message.Message):
    __slots__ = ("session", "model", "max_message_bytes", "max_tokens", "prompt", "encoder", "decoder", "computation")
    class ComputationEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    COMPUTATION_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    model: str
    max_message_bytes: int
    max_tokens: int
    prompt: str
    encoder: str
    decoder: str
    computation: _containers.ScalarMap[str, str]
    def __init__(self, session: _Optional[bytes] = ..., model: _Optional[str] = ..., max_message_bytes: _Optional[int] = ..., max_tokens: _Optional[int] = ..., prompt: _Optional[str] = ..., encoder: _Optional[str] = ..., decoder: _Optional[str] = ..., computation: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CaptionRequest(_message.Message):
    __slots__ = ("session", "message", "prompt", "request_id", "max_tokens", "continues", "picture")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    message: bytes
    prompt: str
    request_id: bytes
    max_tokens: int
    continues: bytes
    picture: bytes
    def __init__(self, session: _Optional[bytes] = ..., message: _Optional[bytes] = ..., prompt: _Optional[str] = ..., request_id: _Optional[bytes] = ..., max_tokens: _Optional[int] = ..., continues: _Optional[bytes] = ..., picture: _Optional[bytes] = ...) -> None: ...

class CaptionReply(_message.Message):
    __slots__ = ("caption", "tokens", "min_entropy", "stages", "repeated", "known_picture")
    CAPTION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    KNOWN_PICTURE_FIELD_NUMBER: _ClassVar[int]
    caption: str
    tokens: int
    min_entropy: float
    stages: Stages
    repeated: bool
    known_picture: bool
    def __init__(self, caption: _Optional[str] = ..., tokens: _Optional[int] = ..., min_entropy: _Optional[float] = ..., stages: _Optional[_Union[Stages, _Mapping]] = ..., repeated: bool = ..., known_picture: bool = ...) -> None: ...

class Stages(_message.Message):
    __slots__ = ("queue", "unpack", "rebuild", "prefill", "decode", "first_token", "batch")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    UNPACK_FIELD_NUMBER: _ClassVar[int]
    REBUILD_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    queue: float
    unpack: float
    rebuild: float
    prefill: float
    decode: float
    first_token: float
    batch: int
    def __init__(self, queue: _Optional[float] = ..., unpack: _Optional[float] = ..., rebuild: _Optional[float] = ..., prefill: _Optional[float] = ..., decode: _Optional[float] = ..., first_token: _Optional[float] = ..., batch: _Optional[int] = ...) -> None: ...

class CaptionChunk(_message.Message):
    __slots__ = ("text", "reply")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    text: str
    reply: CaptionReply
    def __init__(self, text: _Optional[str] = ..., reply: _Optional[_Union[CaptionReply, _Mapping]] = ...) -> None: ...
