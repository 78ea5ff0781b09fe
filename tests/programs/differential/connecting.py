"""How connections begin and fail to begin; addresses that bind, connect and accept take and refuse."""

from ground import *


def closed_port():
    return peer("listener=serve(); result=listener.getsockname()[1]; listener.close()")


def open_port():
    return peer("listener=serve(); result=listener.getsockname()[1]")


@scenario
def refused():
    port = closed_port()
    s = tcp()
    say("connect", attempt(s.connect, (PEER, port)))
    watch(s, "refused")
    names(s)
    say("SO_ERROR", error_of(s))
    say("recv, send", (attempt(s.recv, 1), attempt(s.send, b"x")))
    say("connect to an open port", attempt(s.connect, (PEER, open_port())))
    say("poll", events(s))


@scenario
def refused_without_waiting():
    port = closed_port()
    s = tcp()
    s.setblocking(False)
    say("connect", attempt(s.connect, (PEER, port)))
    wait_for(s, select.POLLERR)
    watch(s, "refused")
    names(s)
    say("SO_ERROR", error_of(s))
    watch(s, "told")
    say("connect again", attempt(s.connect, (PEER, port)))


@scenario
def refused_told_by_connect():
    s = tcp()
    s.setblocking(False)
    say("connect", attempt(s.connect, (PEER, closed_port())))
    wait_for(s, select.POLLERR)
    port = open_port()
    say("connect again", attempt(s.connect, (PEER, port)))
    say("and again", attempt(s.connect, (PEER, port)))
    wait_for(s, select.POLLOUT)
    say("poll", events(s))
    say("SO_ERROR", error_of(s))


@scenario
def refused_told_by_recv_and_send():
    for call in ("recv", "send"):
        s = tcp()
        s.setblocking(False)
        say("connect", attempt(s.connect, (PEER, closed_port())))
        wait_for(s, select.POLLERR)
        argument = 1 if call == "recv" else b"x"
        say(call, [attempt(getattr(s, call), argument) for _ in range(3)])


@scenario
def open_without_waiting():
    s = tcp()
    s.setblocking(False)
    port = open_port()
    say("connect", attempt(s.connect, (PEER, port)))
    wait_for(s, select.POLLOUT)
    watch(s, "open")
    say("SO_ERROR", error_of(s))
    say("connect again", attempt(s.connect, (PEER, port)))
    say("and again", attempt(s.connect, (PEER, port)))
    say("and elsewhere", attempt(s.connect, (PEER, 9)))


@scenario
def unreachable():
    for name, address in (("unreachable", UNREACHABLE), ("prohibited", PROHIBITED)):
        s = tcp()
        say(f"{name}, connect", attempt(s.connect, (address, 9)))
        s = tcp()
        s.setblocking(False)
        say(f"{name}, connect without waiting", attempt(s.connect, (address, 9)))
        # Whether the attempt goes on behind the error is up to the stack (RFC 9293, 3.9.2.2), on Linux also to whether the
        # answer came while the caller was inside connect().
        wait_for(s, select.POLLERR)
        say(f"{name}, an error", "ERR" in events(s))
        say(f"{name}, SO_ERROR", error_of(s))


@scenario
def unreachable_once_connected():
    for told in (False, True):
        # An address behind the peer that it has first, and then says that it cannot be reached.
        peer("import subprocess; ip=lambda *a: subprocess.run(('ip',)+a, check=True)")
        peer("ip('address','add','10.96.0.1/32','dev','lo'); listener=serve(); result=None")
        s = tcp()
        s.setsockopt(socket.IPPROTO_IP, 11, told)
        s.connect(("10.96.0.1", peer("result=listener.getsockname()[1]")))
        peer("c=listener.accept()[0]; listener.close()")
        peer("ip('address','del','10.96.0.1/32','dev','lo'); ip('route','add','unreachable','10.96.0.1/32')")
        say("send", s.send(b"x"))
        if told:
            wait_for(s, select.POLLERR)
            say("told, SO_ERROR", error_of(s))
        else:
            seen, found = set(), []

            def has_arrived():
                seen.add((events(s), attempt(s.recv, 1, socket.MSG_DONTWAIT)))
                found.append(error_of(s))
                return found[-1] != 0

            wait_until(has_arrived)
            say("not told, seen", seen)
            say("not told, SO_ERROR", found[-1])
        peer("ip('route','del','unreachable','10.96.0.1/32'); c.close()")


@scenario
def nobody_at_the_address():
    s = tcp()
    say("connect", attempt(s.connect, ("10.9.0.77", 9)))


@scenario
def addresses_nobody_can_have():
    for address in ("10.9.0.255", "255.255.255.255", "224.0.0.1", "240.0.0.1"):
        s = tcp()
        say(address, attempt(s.connect, (address, 9)))
    s = tcp()
    say("port 0", attempt(s.connect, (PEER, 0)))


@scenario
def connect_times_out():
    s = tcp()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 50_000))
    say("connect", attempt(s.connect, (SILENT, 9)))
    say("again", attempt(s.connect, (SILENT, 9)))
    watch(s, "timed out")


@scenario
def connect_in_another_thread():
    s = tcp()
    join = blocked(s.connect, (SILENT, 9))
    s.setblocking(False)
    say("connect meanwhile", attempt(s.connect, (SILENT, 9)))
    say("shutdown", attempt(s.shutdown, socket.SHUT_RDWR))
    say("the first", join())


@scenario
def connection_to_ourselves():
    listener = listening()
    s = tcp()
    say("connect", attempt(s.connect, listener.getsockname()))
    c = keep(listener.accept()[0])
    say("names agree", (s.getsockname() == c.getpeername(), s.getpeername() == c.getsockname()))
    s.sendall(b"to myself")
    say("recv", c.recv(100))


@scenario
def bind_refusals():
    s = listening()
    port = s.getsockname()[1]
    say("in use", attempt(tcp().bind, (OURS, port)))
    say("in use, any address", attempt(tcp().bind, ("0.0.0.0", port)))
    t = tcp()
    t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    say("in use by a listener, SO_REUSEADDR", attempt(t.bind, (OURS, port)))
    say("somebody else's address", attempt(tcp().bind, ("10.9.0.77", 0)))
    say("twice", (lambda t: (attempt(t.bind, (OURS, 0)), attempt(t.bind, (OURS, 0))))(tcp()))


@scenario
def bind_shared_by_consent():
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        first, second = tcp(), tcp()
        for s in (first, second):
            s.setsockopt(socket.SOL_SOCKET, option, 1)
        say("first bind", attempt(first.bind, (OURS, 0)))
        say("second bind", attempt(second.bind, first.getsockname()))
        say("first listen", attempt(first.listen))
        say("second listen", attempt(second.listen))


@scenario
def bind_beside_a_connection():
    listener = listening()
    address = listener.getsockname()
    call_in(listener)
    c = keep(listener.accept()[0])
    listener.close()
    say("bind", attempt(tcp().bind, address))
    s = tcp()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    say("bind, SO_REUSEADDR", attempt(s.bind, address))
    say("listen", attempt(s.listen))
    c.close()


@scenario
def address_is_free_after_close():
    listener = listening()
    address = listener.getsockname()
    listener.close()
    say("close", attempt(tcp().bind, address))
    listener = listening()
    address = listener.getsockname()
    os.dup2(os.open("/dev/null", os.O_RDONLY), listener.fileno())
    say("dup2 over it", attempt(tcp().bind, address))
    listener.close()
    listener = listening()
    address, number = listener.getsockname(), 700
    os.dup2(listener.fileno(), number)
    listener.close()
    say("a copy is left", attempt(tcp().bind, address))
    raw("close_range", number, number, 0)
    say("close_range", attempt(tcp().bind, address))


def sockaddr(family=socket.AF_INET, host=None, port=0):
    return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host or OURS) + bytes(8)


@scenario
def malformed_addresses():
    for call in ("bind", "connect"):
        fd = tcp().fileno()
        address = sockaddr(port=0 if call == "bind" else 9)
        for length in (0, 1, 2, 15):
            say(f"{call}, {length} bytes", raw(call, fd, address, length))
        say(f"{call}, AF_INET6", raw(call, fd, sockaddr(socket.AF_INET6), 16))
        say(f"{call}, AF_UNIX", raw(call, fd, sockaddr(socket.AF_UNIX), 16))
    room = ctypes.create_string_buffer(16)
    s = connected()
    for length in (0, 4, 16, 100):
        size = ctypes.c_uint(length)
        say(f"getsockname into {length}", (raw("getsockname", s.fileno(), room, ctypes.byref(size)), size.value))
        size = ctypes.c_uint(length)
        say(f"getpeername into {length}", (raw("getpeername", s.fileno(), room, ctypes.byref(size)), size.value))


@scenario
def what_accept_hands_out():
    for nonblocking in (False, True):
        for flags in (0, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC):
            listener = listening()
            call_in(listener)
            wait_for(listener, select.POLLIN)
            listener.setblocking(not nonblocking)
            fd = libc.accept4(listener.fileno(), None, None, flags)
            told = fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETFD)
            say(f"listener nonblocking {nonblocking}, flags {flags}", told)
            os.close(fd)
    say("flags nobody knows", raw("accept4", listening().fileno(), None, None, 1))


@scenario
def what_accept_passes_on():
    listener = listening()
    pairs = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 7),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12345),
        (socket.SOL_SOCKET, socket.SO_RCVLOWAT, 3),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, 20000),
        (socket.SOL_SOCKET, socket.SO_RCVBUF, 30000),
        (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
        (socket.SOL_SOCKET, socket.SO_PRIORITY, 3),
        (socket.IPPROTO_IP, socket.IP_TOS, 16),
        (socket.IPPROTO_IP, socket.IP_TTL, 33),
    )
    for level, name, value in pairs:
        listener.setsockopt(level, name, value)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 3, 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    call_in(listener)
    c = keep(listener.accept()[0])
    for level, name, _ in pairs:
        say(f"{level}.{name}", c.getsockopt(level, name))
    say("SO_LINGER", struct.unpack("ii", c.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)))
    say("SO_RCVTIMEO", struct.unpack("ll", c.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)))
    say("TCP_CONGESTION", c.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16))


@scenario
def kinds_of_sockets():
    for arguments in ((2, 1, 0), (2, 1, 6), (2, 1, 17), (2, 1, 255), (2, 0, 0), (2, 77, 0), (2, 2, 6), (99, 1, 0)):
        fd = raw("socket", *arguments)
        say(arguments, "a descriptor" if isinstance(fd, int) else fd)
        if isinstance(fd, int):
            os.close(fd)


run()
