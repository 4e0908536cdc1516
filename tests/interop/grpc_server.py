"""A gRPC server of another make, which plays a script: what becomes of its first call, its second one, and so on.

It writes a line of JSON for its port, for each call that it gets, and for each that its caller gave up. Ends with its standard input.
Steps:
    {"message": HEX}                    answers
    {"code": NAME, "pushback": TEXT}    fails; `pushback` may be missing; with `"head": true` it sends the head of an answer first
    {"hang": true}                      waits until the caller has given up
    {"exit": true}                      the whole process ends at once
"""

import concurrent.futures
import json
import os
import sys
import threading
import time

import grpc


def tell(what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Script(grpc.GenericRpcHandler):
    def __init__(self, steps):
        self.steps = iter(steps)
        self.lock = threading.Lock()

    def service(self, call):
        return grpc.unary_unary_rpc_method_handler(
            lambda message, context: self.play(call.method, message, context)
        )

    def play(self, method, message, context):
        with self.lock:
            step = next(self.steps, {"code": "INTERNAL"})
            remaining = context.time_remaining()
            tell(
                {
                    "at": time.monotonic() * 1000,
                    "method": method,
                    "message": message.hex(),
                    "remaining": remaining and remaining * 1000,
                    "metadata": {k: v for k, v in context.invocation_metadata() if isinstance(v, str)},
                }
            )
        if "message" in step:
            return bytes.fromhex(step["message"])
        if "exit" in step:
            os._exit(0)
        if "hang" in step:
            ended = threading.Event()
            if context.add_callback(ended.set):
                ended.wait(30)
            tell({"given_up": not context.is_active(), "at": time.monotonic() * 1000})
            return b""
        if step.get("head"):
            context.send_initial_metadata(())
        if "pushback" in step:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", step["pushback"]),))
        context.abort(grpc.StatusCode[step["code"]], "as the script says")


def main():
    port, steps = sys.argv[1:]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Script(json.loads(steps)),))
    tell({"port": server.add_insecure_port("127.0.0.1:" + port)})
    server.start()
    sys.stdin.read()
    server.stop(None)


main()
