from types import TracebackType
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Pattern,
    Tuple,
    Type,
    Union,
)

from typing_extensions import Self, TypeAlias

from asgi_ipc import errors

_Message: TypeAlias = Dict[Any, Any]
_Capacities: TypeAlias = Union[
    Mapping[str, int],
    Mapping[Pattern[str], int],
    Mapping[Union[str, Pattern[str]], int],
    Iterable[Tuple[Union[str, Pattern[str]], int]],
]

def unlink(prefix: str) -> bool: ...

class IPCChannelLayer:
    ChannelFull: Type[errors.ChannelFull]
    MessageTooLarge: Type[errors.MessageTooLarge]

    prefix: str
    expiry: float
    group_expiry: float
    capacity: int
    channel_capacity: List[Tuple[Pattern[str], int]]
    max_message_size: int
    block_timeout: float
    lock_timeout: float
    extensions: List[str]
    breath: int

    def __init__(
        self,
        prefix: Union[str, bytes] = ...,
        expiry: float = ...,
        group_expiry: float = ...,
        capacity: int = ...,
        channel_capacity: Optional[_Capacities] = ...,
        message_memory: int = ...,
        group_memory: int = ...,
        mode: int = ...,
        max_message_size: Optional[int] = ...,
        block_timeout: float = ...,
        lock_timeout: float = ...,
    ) -> None: ...
    def send(self, channel: str, message: _Message) -> None: ...
    def receive(
        self, channels: Iterable[str], block: bool = ...
    ) -> Union[Tuple[str, _Message], Tuple[None, None]]: ...
    def receive_many(
        self, channels: Iterable[str], block: bool = ...
    ) -> Union[Tuple[str, _Message], Tuple[None, None]]: ...
    # A Deferred; Twisted need not be there.
    def receive_twisted(self, channels: Iterable[str]) -> Any: ...
    def new_channel(self, pattern: Optional[str] = ...) -> str: ...
    def group_add(self, group: str, channel: str) -> None: ...
    def group_discard(self, group: str, channel: str) -> None: ...
    def group_channels(self, group: str) -> List[str]: ...
    def send_group(self, group: str, message: _Message) -> None: ...
    def flush(self) -> None: ...
    def global_statistics(self) -> Dict[str, float]: ...
    def channel_statistics(self, channel: str) -> Dict[str, float]: ...
    def statistics(self, top: int = ...) -> Dict[str, Any]: ...
    def check(self) -> List[str]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None: ...
    def get_capacity(self, channel: str) -> int: ...
    def compile_capacities(
        self, channel_capacity: Optional[_Capacities]
    ) -> List[Tuple[Pattern[str], int]]: ...
    def valid_channel_name(self, name: str, receive: bool = ...) -> bool: ...
    def valid_group_name(self, name: str) -> bool: ...
    def non_local_name(self, name: str) -> str: ...
