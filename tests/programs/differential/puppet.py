"""The peer of the differential programs, on the host kernel of the peer's namespace: does what it is told, one line of
JSON at a time over an AF_UNIX socket, and answers with what `result` then is."""

import json, os, socket, struct, sys, traceback


def serve(backlog=8):
    """A listener on a free port."""
    listener = socket.socket()
    listener.bind(("0.0.0.0", 0))
    listener.listen(backlog)
    return listener


def reset(connection):
    """Closes with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def drain(connection):
    """Reads to the end and tells how much came."""
    count = 0
    while piece := connection.recv(1 << 16):
        count += len(piece)
    return count


control = socket.socket(socket.AF_UNIX)
control.bind(sys.argv[1])
control.listen(1)
master = control.accept()[0].makefile("rw")
names = {"serve": serve, "reset": reset, "drain": drain, "socket": socket}
for line in master:
    names["result"] = None
    try:
        exec(json.loads(line), names)
        answer = {"result": names["result"]}
    except Exception:
        answer = {"error": traceback.format_exc()}
    master.write(json.dumps(answer) + "\n")
    master.flush()
