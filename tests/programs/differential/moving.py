"""Bytes in and out: sizes, flags, vectors, timeouts, urgent data, what ends a blocked call."""

from ground import *


@scenario
def nothing_moves():
    for role, make in ROLES.items():
        s = make()
        say("send of nothing", s.send(b""))
        say("recv of nothing", s.recv(0))
        say("writev of nothing", os.writev(s.fileno(), [b"", b""]))
        say("writev of no pieces", raw("writev", s.fileno(), None, 0))
        say("readv of no pieces", raw("readv", s.fileno(), None, 0))
        say("read of nothing", raw("read", s.fileno(), ctypes.create_string_buffer(1), 0))
        say("recv", attempt(s.recv, 1, socket.MSG_DONTWAIT))
        peer("c.sendall(b'x')")
        wait_for(s, select.POLLIN)
        say("recv of nothing with data", s.recv(0))
        peer("c.shutdown(socket.SHUT_WR)")
        wait_for(s, select.POLLRDHUP)
        say("recv", (s.recv(10), s.recv(0), s.recv(10)))


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


@scenario
def too_many_pieces():
    s = connected()
    byte = ctypes.create_string_buffer(b"x")
    for count in (1024, 1025):
        vector = (Iovec * count)(*[Iovec(ctypes.addressof(byte), 1)] * count)
        say(f"writev of {count}", raw("writev", s.fileno(), vector, count))
    say("writev of -1", raw("writev", s.fileno(), vector, -1))
    say("readv of 1025", raw("readv", s.fileno(), vector, 1025))
    say("sendmsg of 1025", attempt(s.sendmsg, [b"x"] * 1025))
    say("recvmsg of 1025", attempt(s.recvmsg_into, [bytearray(1)] * 1025))
    say("the peer receives", peer("result=len(c.recv(1024, socket.MSG_WAITALL))"))


@scenario
def flags_of_recv():
    s = connected()
    peer("c.sendall(b'0123456789')")
    wait_until(lambda: asked(s, FIONREAD) == 10)
    say("peek", s.recv(3, socket.MSG_PEEK))
    say("peek again", s.recv(100, socket.MSG_PEEK))
    say("peek with WAITALL", s.recv(10, socket.MSG_PEEK | socket.MSG_WAITALL))
    say("recvfrom", s.recvfrom(2))
    say("recvmsg", s.recvmsg(2, 100))
    buffers = bytearray(1), bytearray(2)
    say("recvmsg_into", s.recvmsg_into(buffers)[:1])
    say("buffers", buffers)
    say("truncate", raw("recv", s.fileno(), None, 2, socket.MSG_TRUNC))
    say("the rest, DONTWAIT and WAITALL", s.recv(100, socket.MSG_WAITALL | socket.MSG_DONTWAIT))
    say("nothing", attempt(s.recv, 1, socket.MSG_DONTWAIT))
    say("error queue", attempt(s.recvmsg, 10, 100, socket.MSG_ERRQUEUE))


@scenario
def waiting_for_all():
    s = connected()
    join = blocked(s.recv, 10, socket.MSG_WAITALL)
    peer("c.sendall(b'01234')")
    wait_until(lambda: asked(s, FIONREAD) in (0, 5))
    peer("c.sendall(b'56789')")
    say("recv", join())
    join = blocked(s.recv, 10, socket.MSG_WAITALL)
    peer("c.sendall(b'end'); c.shutdown(socket.SHUT_WR)")
    say("recv at the end", join())
    s = connected()
    join = blocked(s.recv, 10, socket.MSG_WAITALL)
    peer("c.sendall(b'part')")
    wait_until(lambda: asked(s, FIONREAD) in (0, 4))
    peer("reset(c)")
    say("recv before a reset", join())
    say("recv after it", attempt(s.recv, 1))


@scenario
def low_water_mark():
    s = connected()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5)
    peer("c.sendall(b'0123')")
    wait_until(lambda: asked(s, FIONREAD) == 4)
    watch(s, "below")
    say("recv without waiting", attempt(s.recv, 2, socket.MSG_DONTWAIT))
    peer("c.sendall(b'456')")
    wait_until(lambda: asked(s, FIONREAD) == 5)
    watch(s, "at it")
    join = blocked(s.recv, 100)
    say("recv", join())
    peer("c.sendall(b'z'); c.shutdown(socket.SHUT_WR)")
    wait_for(s, select.POLLRDHUP)
    watch(s, "below at the end")
    say("recv", s.recv(100))


@scenario
def timeouts():
    s = connected()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 30_000))
    say("recv", attempt(s.recv, 1))
    peer("c.sendall(b'part')")
    say("recv of a part", s.recv(10, socket.MSG_WAITALL))
    listener = listening()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 30_000))
    say("accept", raw("accept", listener.fileno(), None, None))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 30_000))
    for _ in range(1000):
        sent = attempt(s.send, bytes(1 << 20))
        if isinstance(sent, str):
            break
    say("send into a full buffer", sent)
    say("poll", events(s))
    say("select", selected(s))


@scenario
def full_buffer():
    s = connected()
    s.setblocking(False)
    for _ in range(100_000):
        sent = attempt(s.send, bytes(1 << 16))
        if isinstance(sent, str):
            break
    say("send", sent)
    say("poll", events(s))
    with select.epoll() as epoll:
        epoll.register(s, select.EPOLLOUT | select.EPOLLET)
        say("epoll", epoll.poll(0))
        peer("import threading; t=threading.Thread(target=drain,args=(c,)); t.start()")
        say("epoll, drained", [named(mask) for _, mask in epoll.poll(PATIENCE)])
    s.shutdown(socket.SHUT_WR)
    peer("t.join()")


@scenario
def broken_pipe():
    caught = []
    signal.signal(signal.SIGPIPE, lambda number, _: caught.append(number))
    try:
        s = connected()
        s.shutdown(socket.SHUT_WR)
        say("send", attempt(s.send, b"x"))
        say("signals", len(caught))
        say("write", attempt(os.write, s.fileno(), b"x"))
        say("signals", len(caught))
        say("writev", attempt(os.writev, s.fileno(), [b"x"]))
        say("sendmsg", attempt(s.sendmsg, [b"x"]))
        say("signals", len(caught))
        say("send without signal", attempt(s.send, b"x", socket.MSG_NOSIGNAL))
        say("send of nothing", attempt(s.send, b""))
        say("signals", len(caught))
        t = tcp()
        say("send, unconnected", attempt(t.send, b"x"))
        say("signals", len(caught))
    finally:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)


@scenario
def destinations():
    s = connected()
    say("sendto elsewhere", attempt(s.sendto, b"abc", (PEER, 1)))
    say("the peer receives", peer("result=c.recv(100).decode()"))
    say("sendto, unconnected", attempt(tcp().sendto, b"abc", (PEER, 1)))
    say("sendmsg, unconnected", attempt(tcp().sendmsg, [b"abc"]))


@scenario
def urgent_data():
    for inline in (False, True):
        s = connected()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, inline)
        peer("c.sendall(b'abc'); c.send(b'!', socket.MSG_OOB); c.sendall(b'def')")
        wait_for(s, select.POLLPRI)
        wait_until(lambda: (asked(s, FIONREAD), len(s.recv(100, socket.MSG_PEEK)))[1] >= 3)
        say("poll", events(s))
        say("select", selected(s))
        say("at the mark", asked(s, SIOCATMARK))
        say("recv", s.recv(100))
        say("at the mark", asked(s, SIOCATMARK))
        say("poll", events(s))
        say("urgent peek", attempt(s.recv, 10, socket.MSG_OOB | socket.MSG_PEEK))
        say("urgent recv", attempt(s.recv, 10, socket.MSG_OOB))
        say("urgent recv again", attempt(s.recv, 10, socket.MSG_OOB))
        say("poll", events(s))
        wait_for(s, select.POLLIN)
        say("recv", s.recv(100))
        say("at the mark", asked(s, SIOCATMARK))
        say("poll", events(s))
        s.send(b"x")
        s.send(b"?", socket.MSG_OOB)
        s.send(b"y")
        say("the peer receives", peer("c.setsockopt(1, 10, 1); result=c.recv(3, socket.MSG_WAITALL).decode()"))


@scenario
def reader_woken():
    for role, make in ROLES.items():
        for name, wake in (
            ("data", lambda s: peer("c.sendall(b'x')")),
            ("end", lambda s: peer("c.shutdown(socket.SHUT_WR)")),
            ("reset", lambda s: peer("reset(c)")),
            ("our shutdown of reading", lambda s: s.shutdown(socket.SHUT_RD)),
            ("our shutdown of both", lambda s: s.shutdown(socket.SHUT_RDWR)),
        ):
            s = make()
            join = blocked(s.recv, 10)
            wake(s)
            say(f"{role}, {name}", join())


@scenario
def writer_woken():
    for name, wake in (
        ("reset", lambda s: peer("reset(c)")),
        ("our shutdown of writing", lambda s: s.shutdown(socket.SHUT_WR)),
    ):
        s = connected()
        s.setblocking(False)
        while not isinstance(attempt(s.send, bytes(1 << 16)), str):
            pass
        s.setblocking(True)
        join = blocked(s.send, bytes(1 << 20))
        wake(s)
        # Whether a part found room before is up to the buffer; then the next call tells the error.
        outcome = join()
        say(name, attempt(s.send, b"x") if isinstance(outcome, int) else outcome)
        say(f"{name}, send", attempt(s.send, b"x"))
        say(f"{name}, poll", events(s))


@scenario
def accept_woken():
    listener = listening()
    join = blocked(lambda: raw("accept", listener.fileno(), None, None))
    listener.shutdown(socket.SHUT_RD)
    say("accept", join())
    listener = listening()
    join = blocked(lambda: place(listener.accept()[1]))
    call_in(listener)
    say("accept", join())


@scenario
def waiter_woken_by_reset():
    for name, wait in (
        ("poll", lambda s: [named(mask) for _, mask in (lambda p: (p.register(s, ALL & ~4 & ~256), p.poll())[1])(select.poll())]),
        ("select", lambda s: [len(found) for found in select.select([s], [], [s])]),
        ("epoll", lambda s: (lambda e: (e.register(s, select.EPOLLIN), [named(mask) for _, mask in e.poll()])[1])(select.epoll())),
    ):
        s = connected()
        join = blocked(wait, s)
        peer("reset(c)")
        say(name, join())


@scenario
def interrupted():
    s = connected()
    for restart in (False, True):
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.siginterrupt(signal.SIGUSR1, not restart)
        outcome = []
        room = ctypes.create_string_buffer(10)
        thread = threading.Thread(target=lambda: outcome.append(raw("recv", s.fileno(), room, 10, 0)), daemon=True)
        thread.start()
        for _ in range(50):
            time.sleep(0.005)
        signal.pthread_kill(thread.ident, signal.SIGUSR1)
        if restart:
            for _ in range(20):
                time.sleep(0.005)
            peer("c.sendall(b'x')")
        thread.join(PATIENCE)
        say(f"recv, restart {restart}", outcome)


@scenario
def unread_at_close():
    for role, make in ROLES.items():
        s = make()
        peer("c.sendall(b'unread')")
        wait_for(s, select.POLLIN)
        s.close()
        say(role, peer("""
try: result=len(c.recv(1))
except OSError as error: result=str(error)"""))


@scenario
def linger():
    for on, seconds in ((1, 0), (1, 5), (0, 0)):
        s = connected()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, seconds))
        s.send(b"bye")
        peer("c.recv(3)")
        s.close()
        say(f"SO_LINGER {on} {seconds}", peer("""
try: result=len(c.recv(1))
except OSError as error: result=str(error)"""))


@scenario
def sendfile():
    s = connected()
    with open(__file__, "rb") as file:
        say("sendfile", os.sendfile(s.fileno(), file.fileno(), 0, 5))
    say("the peer receives", peer("result=len(c.recv(5, socket.MSG_WAITALL))"))
    with open(__file__, "rb") as file:
        say("from an unconnected socket", attempt(os.sendfile, tcp().fileno(), file.fileno(), 0, 5))


@scenario
def bad_arguments():
    s = connected()
    peer("c.sendall(b'x')")
    wait_for(s, select.POLLIN)
    say("read into nowhere", raw("recv", s.fileno(), None, 10, socket.MSG_DONTWAIT))
    say("write from nowhere", raw("send", s.fileno(), None, 10, 0))
    say("shutdown", raw("shutdown", s.fileno(), 3))
    say("sendmsg", raw("sendmsg", s.fileno(), None, 0))
    say("lseek", raw("lseek", s.fileno(), 0, 0))
    say("pread", raw("pread", s.fileno(), ctypes.create_string_buffer(4), 4, 0))
    say("fsync", raw("fsync", s.fileno()))
    say("ioctl", raw("ioctl", s.fileno(), 0x1234, None))


run()
