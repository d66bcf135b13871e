"""Tenants of Understory from Python, over the same protocol files as every other client.

    pip install grpcio grpcio-tools
    python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. proto/understory/v1/*.proto
    python tenants.py 127.0.0.1:7400
"""

import sys
import time
import uuid

import grpc

from understory.v1 import control_pb2, control_pb2_grpc

endpoint = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400"
name = sys.argv[2] if len(sys.argv) > 2 else "from-python"

with grpc.insecure_channel(endpoint) as channel:
    control = control_pb2_grpc.ControlPlaneServiceStub(channel)
    control.CreateTenant(
        control_pb2.CreateTenantRequest(name=name, postgres_major=17, request_id=str(uuid.uuid4())), timeout=30
    )
    while True:
        view = control.GetTimeline(control_pb2.GetTimelineRequest(tenant=name), timeout=30)
        if view.compute.connection_string:
            print(view.compute.connection_string)
            break
        time.sleep(0.2)

    control.SwitchFullPageWrites(control_pb2.SwitchFullPageWritesRequest(tenant=name, on=False), timeout=30)
    for update in control.WatchFullPageWrites(control_pb2.WatchFullPageWritesRequest(tenant=name), timeout=120):
        status = update.status
        print("full_page_writes:", control_pb2.FpwPhase.Name(status.phase), [step.name for step in status.steps])
        if status.phase == control_pb2.FPW_PHASE_OFF:
            break
