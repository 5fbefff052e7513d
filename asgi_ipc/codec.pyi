from typing import Any, Dict, Union

MAX_DEPTH: int
RESERVED_KEY: str

def pack(message: Dict[Any, Any]) -> bytes: ...
def unpack(data: Union[bytes, bytearray, memoryview]) -> Any: ...
