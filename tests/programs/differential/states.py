"""What a socket says and refuses in each of its states."""

from ground import *


def refusals(s, *, without=()):
    """Calls that are wrong in most states; none of them may change it."""
    calls = {
        "bind": lambda: s.bind((OURS, 0)),
        "listen": lambda: s.listen(1),
        "connect": lambda: s.connect((PEER, 9)),
        "accept": lambda: raw("accept", s.fileno(), None, None),
        "recv": lambda: s.recv(10, socket.MSG_DONTWAIT),
        "recv of nothing": lambda: s.recv(0, socket.MSG_DONTWAIT),
        "peek": lambda: s.recv(10, socket.MSG_DONTWAIT | socket.MSG_PEEK),
        "send": lambda: s.send(b"x", socket.MSG_DONTWAIT),
        "send of nothing": lambda: s.send(b"", socket.MSG_DONTWAIT),
        "urgent recv": lambda: s.recv(1, socket.MSG_OOB | socket.MSG_DONTWAIT),
        "shutdown of writing": lambda: s.shutdown(socket.SHUT_WR),
        "SO_ERROR": lambda: error_of(s),
        "SO_ACCEPTCONN": lambda: s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
        "SIOCATMARK": lambda: asked(s, SIOCATMARK),
    }
    for name, call in calls.items():
        if name not in without:
            say(name, attempt(call))


@scenario
def fresh():
    s = tcp()
    watch(s, "fresh")
    names(s)
    refusals(s, without=("bind", "listen", "connect"))
    watch(s, "afterwards")


@scenario
def bound():
    s = tcp()
    say("bind", attempt(s.bind, (OURS, 0)))
    watch(s, "bound")
    names(s)
    refusals(s, without=("listen", "connect"))


@scenario
def bound_to_any_address():
    s = tcp()
    say("bind", attempt(s.bind, ("0.0.0.0", 0)))
    names(s)
    port = peer("listener=serve(); result=listener.getsockname()[1]")
    say("connect", attempt(s.connect, (PEER, port)))
    names(s)


@scenario
def listening_without_bind():
    s = tcp()
    say("listen", attempt(s.listen))
    names(s)
    say("bind", attempt(s.bind, (OURS, 0)))


@scenario
def idle_listener():
    s = listening()
    watch(s, "idle")
    names(s)
    s.setblocking(False)
    refusals(s, without=("listen",))
    say("listen again", attempt(s.listen, 5))
    watch(s, "afterwards")


@scenario
def listener_with_a_connection():
    s = listening()
    call_in(s)
    wait_for(s, select.POLLIN)
    watch(s, "pending")
    c, address = s.accept()
    keep(c)
    say("accept", place(address))
    watch(s, "taken")
    s.setblocking(False)
    say("accept again", attempt(s.accept))
    names(c)


@scenario
def listener_shut_down():
    for how in (socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR):
        s = listening()
        say(f"shutdown {how}", attempt(s.shutdown, how))
        watch(s, f"after {how}")
        s.setblocking(False)
        say(f"accept after {how}", attempt(s.accept))
        say(f"SO_ACCEPTCONN after {how}", s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        names(s)
        say(f"listen after {how}", attempt(s.listen))
        names(s)
        say(f"poll after listening again, {how}", events(s))


@scenario
def connecting():
    s = tcp()
    s.setblocking(False)
    say("connect", attempt(s.connect, (SILENT, 9)))
    watch(s, "connecting")
    names(s)
    refusals(s, without=("shutdown of writing", "connect"))
    say("connect again", attempt(s.connect, (SILENT, 9)))
    watch(s, "afterwards")


@scenario
def connecting_given_up():
    for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
        s = tcp()
        s.setblocking(False)
        say("connect", attempt(s.connect, (SILENT, 9)))
        say(f"shutdown {how}", attempt(s.shutdown, how))
        watch(s, f"after {how}")
        say("SO_ERROR", error_of(s))
        say("connect again", attempt(s.connect, (SILENT, 9)))


@scenario
def idle_connection():
    for role, make in ROLES.items():
        s = make()
        wait_until(lambda: asked(s, TIOCOUTQ) == 0)
        watch(s, role)
        say("getsockname", place(s.getsockname()))
        say("getpeername", place(s.getpeername()))
        refusals(s, without=("send", "shutdown of writing"))
        watch(s, f"{role}, afterwards")


@scenario
def connection_with_data():
    for role, make in ROLES.items():
        s = make()
        peer("c.sendall(b'0123456789')")
        wait_for(s, select.POLLIN)
        watch(s, role)
        say("peek", s.recv(4, socket.MSG_PEEK))
        say("recv", s.recv(4))
        watch(s, f"{role}, after a part")
        say("the rest", s.recv(100))
        watch(s, f"{role}, after all")


@scenario
def peer_has_closed():
    for role, make in ROLES.items():
        s = make()
        peer("c.sendall(b'last'); c.shutdown(socket.SHUT_WR)")
        wait_for(s, select.POLLRDHUP)
        watch(s, f"{role}, unread")
        say("recv", s.recv(100))
        watch(s, f"{role}, read")
        say("recv", s.recv(100))
        say("getpeername", place(attempt(s.getpeername)))
        say("send", s.send(b"answer"))
        say("the peer receives", peer("result=c.recv(100).decode()"))
        refusals(s, without=("send", "shutdown of writing"))
        say("shutdown", attempt(s.shutdown, socket.SHUT_WR))
        wait_for(s, select.POLLHUP)
        peer("result=c.recv(1).decode(); c.close()")
        # The acknowledgement of our end closes it for good.
        wait_until(lambda: isinstance(attempt(s.getpeername), str))
        watch(s, f"{role}, both closed")
        say("recv, send, shutdown", (attempt(s.recv, 1), attempt(s.send, b"x"), attempt(s.shutdown, socket.SHUT_RDWR)))
        names(s)


@scenario
def we_have_shut_down():
    for role, make in ROLES.items():
        for how in (socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR):
            s = make()
            say(f"{role} shutdown {how}", attempt(s.shutdown, how))
            if how != socket.SHUT_RD:
                say("the peer receives", peer("result=c.recv(1).decode()"))
            wait_until(lambda: asked(s, TIOCOUTQ) == 0)
            watch(s, f"after {how}")
            names(s)
            refusals(s, without=("shutdown of writing", "send") if how == socket.SHUT_RD else ("shutdown of writing",))
            say("shutdown again", attempt(s.shutdown, how))
            if how != socket.SHUT_RDWR:
                peer("c.sendall(b'late')")
                wait_until(lambda: asked(s, FIONREAD) == 4)
                watch(s, f"with late data, {how}")
                say("recv", attempt(s.recv, 100, socket.MSG_DONTWAIT))
                say("recv", attempt(s.recv, 100, socket.MSG_DONTWAIT))


@scenario
def peer_has_reset():
    for role, make in ROLES.items():
        s = make()
        peer("reset(c)")
        wait_for(s, select.POLLERR)
        watch(s, role)
        names(s)
        say("SO_ERROR", error_of(s))
        say("SO_ERROR again", error_of(s))
        watch(s, f"{role}, told")
        refusals(s, without=("bind", "listen", "connect"))


@scenario
def reset_told_by_recv():
    for role, make in ROLES.items():
        s = make()
        peer("reset(c)")
        wait_for(s, select.POLLERR)
        say("recv", attempt(s.recv, 10))
        say("recv", attempt(s.recv, 10))
        say("send", attempt(s.send, b"x"))
        watch(s, role)


@scenario
def reset_told_by_send():
    s = connected()
    peer("reset(c)")
    wait_for(s, select.POLLERR)
    say("send", attempt(s.send, b"x"))
    say("send", attempt(s.send, b"x"))
    say("recv", attempt(s.recv, 10))
    watch(s, "told")


@scenario
def reset_with_unread_data():
    for role, make in ROLES.items():
        s = make()
        peer("c.sendall(b'unread')")
        wait_for(s, select.POLLIN)
        peer("reset(c)")
        wait_for(s, select.POLLERR)
        watch(s, role)
        say("recv", attempt(s.recv, 3))
        watch(s, f"{role}, after a part")
        say("recv", attempt(s.recv, 10))
        say("recv", attempt(s.recv, 10))
        say("recv", attempt(s.recv, 10))
        watch(s, f"{role}, after all")


@scenario
def reset_after_the_peers_end():
    s = connected()
    peer("c.close()")
    wait_for(s, select.POLLRDHUP)
    say("send", attempt(s.send, b"nobody reads this"))
    wait_for(s, select.POLLERR)
    watch(s, "reset")
    say("recv", attempt(s.recv, 10))
    say("send", attempt(s.send, b"x"))
    say("SO_ERROR", error_of(s))
    watch(s, "told")


run()
