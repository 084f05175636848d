"""Clients of a SuperLink's Control API and of its grid."""

from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.superlink.grid import HttpGrid

__all__ = [
    "SUPERLINK_NODE_ID",
    "ControlHttpClient",
    "ErrorCode",
    "Fab",
    "HttpGrid",
    "StartRunRequest",
    "fab_to_proto",
    "user_config_to_proto",
]
