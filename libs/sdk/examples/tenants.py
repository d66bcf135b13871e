"""Tenants of Understory from Python, over the same protocol files as every other client: README.md, "Python".

    python tenants.py [host:port] [name]

Token and TLS come from UNDERSTORY_TOKEN, UNDERSTORY_TLS_CA (a PEM file) and UNDERSTORY_TLS_NAME, where they are set.
"""

import json
import os
import sys
import time
import uuid

import grpc

from understory.v1 import control_pb2, control_pb2_grpc

SECONDS_MAX = 120
# A call that finds the control plane away is made again.
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "understory.v1.ControlPlaneService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def connect(endpoint):
    options = [("grpc.service_config", json.dumps(RETRIES))]
    authority = os.environ.get("UNDERSTORY_TLS_CA")
    if not authority:
        return grpc.insecure_channel(endpoint, options)
    if name := os.environ.get("UNDERSTORY_TLS_NAME"):
        options.append(("grpc.ssl_target_name_override", name))
    with open(authority, "rb") as file:
        return grpc.secure_channel(endpoint, grpc.ssl_channel_credentials(file.read()), options)


def reason(error):
    """What every server of Understory sends with an error: its code, and perhaps detail and hint."""
    packed = dict(error.trailing_metadata() or ()).get("understory-error-bin")
    return json.loads(packed) if packed else {"code": error.code().name.lower()}


def main(endpoint, name):
    token = os.environ.get("UNDERSTORY_TOKEN")
    # For every call; a deadline too, as without one a call waits for ever.
    how = {"timeout": 30, "metadata": [("authorization", f"Bearer {token}")] if token else []}
    with connect(endpoint) as channel:
        control = control_pb2_grpc.ControlPlaneServiceStub(channel)
        # The same request_id in every try: the tenant is made once.
        request = control_pb2.CreateTenantRequest(name=name, postgres_major=17, request_id=str(uuid.uuid4()))
        try:
            password = control.CreateTenant(request, **how).password
            # Told once. Empty where this is the answer to a repeated try; SetTenantPassword sets a new one.
            print(f"password: {password}" if password else "password: lost on the way")
        except grpc.RpcError as error:
            if reason(error)["code"] != "already_exists":
                raise

        end = time.monotonic() + SECONDS_MAX
        while True:
            compute = control.GetTimeline(control_pb2.GetTimelineRequest(tenant=name), **how).compute
            if compute.connection_string:
                print(compute.connection_string)
                break
            if time.monotonic() > end:
                raise TimeoutError(f"Postgres of {name} does not take SQL: {compute.failure or 'it is starting'}")
            time.sleep(0.2)

        control.SwitchFullPageWrites(control_pb2.SwitchFullPageWritesRequest(tenant=name, on=False), **how)
        watch = control_pb2.WatchFullPageWritesRequest(tenant=name)
        last = None
        for update in control.WatchFullPageWrites(watch, **{**how, "timeout": SECONDS_MAX}):
            phase = control_pb2.FpwPhase.Name(update.status.phase)
            line = f"full_page_writes: {phase} {[step.name for step in update.status.steps if step.done]}"
            if line != last:
                print(line)
            last = line
            if update.status.phase == control_pb2.FPW_PHASE_OFF:
                break


try:
    endpoint = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400"
    main(endpoint, sys.argv[2] if len(sys.argv) > 2 else "from-python")
except grpc.RpcError as error:
    why = reason(error)
    sys.exit(f"{why['code']}: {error.details()}. {why.get('hint', '')}")
