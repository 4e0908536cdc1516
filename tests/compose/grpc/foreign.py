"""A gRPC client of another make: reads calls from standard input, a JSON object a line, and writes what it got, one a line.

Messages are passed as bytes, so nothing is generated and nothing but grpcio is needed.
"""

import json
import sys

import grpc


def same(message):
    return message


def metadata(pairs):
    return sorted(
        [key, value.hex() if isinstance(value, bytes) else value] for key, value in pairs or ()
    )


def fields(data):
    """The fields of a protobuf message, as pairs of number and value."""
    at = 0

    def varint():
        nonlocal at
        number, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        elif tag & 7 == 2:
            length = varint()
            if at + length > len(data):
                raise ValueError("a field goes beyond its message")
            yield tag >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError("neither a number nor bytes")


def error_info(call):
    """The google.rpc.ErrorInfo in the details of a status, if they are a google.rpc.Status that has one."""
    for key, value in call.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        try:
            for detail in [value for number, value in fields(value) if number == 3]:
                packed = dict(fields(detail))
                if packed[1] == b"type.googleapis.com/google.rpc.ErrorInfo":
                    return read_error_info(packed[2])
        except (IndexError, ValueError):
            return None
    return None


def read_error_info(data):
    info = {"metadata": {}}
    for number, value in fields(data):
        if number == 3:
            entry = dict(fields(value))
            info["metadata"][entry[1].decode()] = entry[2].decode()
        else:
            info[{1: "reason", 2: "domain"}[number]] = value.decode()
    return info


def described(call, message):
    return {
        "code": call.code().name,
        "details": call.details(),
        "initial": metadata(call.initial_metadata()),
        "trailing": metadata(call.trailing_metadata()),
        "error_info": error_info(call),
        "message": message.hex() if message is not None else None,
    }


def main():
    address, service_config = sys.argv[1:]
    options = [("grpc.enable_retries", 1), ("grpc.service_config", service_config)]
    with grpc.insecure_channel(address, options=options) as channel:
        for line in sys.stdin:
            order = json.loads(line)
            method = channel.unary_unary(
                order["method"], request_serializer=same, response_deserializer=same
            )
            try:
                message, call = method.with_call(
                    bytes.fromhex(order["message"]),
                    metadata=[tuple(pair) for pair in order["metadata"]],
                    timeout=order["timeout"],
                )
            except grpc.RpcError as error:
                call, message = error, None
            print(json.dumps(described(call, message)), flush=True)


main()
