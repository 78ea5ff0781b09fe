"""poll, select and epoll: membership, edges, one shot, copies of a descriptor, numbers out of the ordinary."""

from ground import *


def told(epoll, descriptors, timeout=0):
    """What epoll reports, with descriptors by name."""
    return sorted((descriptors.get(fd, fd), named(mask)) for fd, mask in epoll.poll(timeout))


@scenario
def poll_of_odd_numbers():
    s = connected()
    closed = os.dup(s.fileno())
    os.close(closed)

    class Pollfd(ctypes.Structure):
        _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]

    entries = (Pollfd * 5)(
        Pollfd(-1, 4, 99), Pollfd(s.fileno(), 4, 99), Pollfd(closed, 4, 99), Pollfd(-77, 1, 99), Pollfd(s.fileno(), 1, 99)
    )
    say("poll", raw("poll", entries, 5, 0))
    say("revents", [named(entry.revents) for entry in entries])
    entries = (Pollfd * 2)(Pollfd(s.fileno(), 0, 0), Pollfd(s.fileno(), 1, 0))
    say("nothing asked", (raw("poll", entries, 2, 0), [named(entry.revents) for entry in entries]))
    say("no entries", raw("poll", None, 0, 0))


@scenario
def select_of_high_numbers():
    s = connected()
    high = 1500
    os.dup2(s.fileno(), high)
    peer("c.sendall(b'x')")
    wait_for(s, select.POLLIN)
    read, write = (ctypes.c_uint8 * 256)(), (ctypes.c_uint8 * 256)()
    for fd in (s.fileno(), high):
        for members in (read, write):
            members[fd // 8] |= 1 << fd % 8
    now = struct.pack("ll", 0, 0)
    say("select", raw("select", high + 1, read, write, None, now))
    say("members", [bool(members[high // 8] >> high % 8 & 1) for members in (read, write)])
    os.close(high)
    members = (ctypes.c_uint8 * 256)()
    for fd in (s.fileno(), high):
        members[fd // 8] |= 1 << fd % 8
    say("with a closed one", raw("select", high + 1, members, None, None, now))
    say("a negative count", raw("select", -1, None, None, None, now))


@scenario
def epoll_membership():
    s = connected()
    epoll = keep(select.epoll())
    say("modify before", attempt(epoll.modify, s, select.EPOLLIN))
    say("unregister before", attempt(epoll.unregister, s))
    say("register", attempt(epoll.register, s, select.EPOLLOUT))
    say("register again", attempt(epoll.register, s, select.EPOLLIN))
    names = {s.fileno(): "s"}
    say("poll", told(epoll, names))
    say("modify", attempt(epoll.modify, s, select.EPOLLIN))
    say("poll", told(epoll, names))
    say("unregister", attempt(epoll.unregister, s))
    say("unregister again", attempt(epoll.unregister, s))
    say("itself", attempt(epoll.register, epoll, select.EPOLLIN))
    say("in a socket", raw("epoll_ctl", s.fileno(), 1, epoll.fileno(), ctypes.create_string_buffer(12)))
    say("wait on a socket", raw("epoll_wait", s.fileno(), ctypes.create_string_buffer(12), 1, 0))
    say("no room", raw("epoll_wait", epoll.fileno(), ctypes.create_string_buffer(12), 0, 0))
    say("unknown operation", raw("epoll_ctl", epoll.fileno(), 9, s.fileno(), ctypes.create_string_buffer(12)))
    fd = s.detach()
    epoll.register(fd, select.EPOLLOUT)
    os.close(fd)
    say("closed", told(epoll, {}))
    say("register closed", attempt(epoll.register, fd, select.EPOLLIN))


@scenario
def epoll_levels():
    s = connected()
    epoll = keep(select.epoll())
    epoll.register(s, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP)
    names = {s.fileno(): "s"}
    say("idle", [told(epoll, names) for _ in range(2)])
    peer("c.sendall(b'x')")
    wait_for(s, select.POLLIN)
    say("data", [told(epoll, names) for _ in range(2)])
    s.recv(1)
    say("taken", told(epoll, names))
    peer("c.shutdown(socket.SHUT_WR)")
    wait_for(s, select.POLLRDHUP)
    say("end", [told(epoll, names) for _ in range(2)])
    s.shutdown(socket.SHUT_WR)
    say("both", [told(epoll, names) for _ in range(2)])


@scenario
def epoll_edges():
    s = connected()
    epoll = keep(select.epoll())
    epoll.register(s, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)
    names = {s.fileno(): "s"}
    say("first", [told(epoll, names) for _ in range(2)])
    peer("c.sendall(b'x')")
    say("data", told(epoll, names, PATIENCE))
    say("no news", told(epoll, names))
    peer("c.sendall(b'y')")
    say("more", told(epoll, names, PATIENCE))
    s.recv(1)
    say("a part taken", told(epoll, names))
    epoll.modify(s, select.EPOLLIN | select.EPOLLET)
    say("modified", [told(epoll, names) for _ in range(2)])
    peer("c.shutdown(socket.SHUT_WR)")
    say("end", told(epoll, names, PATIENCE))
    say("no news", told(epoll, names))


@scenario
def epoll_one_shot():
    s = connected()
    epoll = keep(select.epoll())
    epoll.register(s, select.EPOLLIN | select.EPOLLONESHOT)
    names = {s.fileno(): "s"}
    peer("c.sendall(b'x')")
    say("data", told(epoll, names, PATIENCE))
    peer("c.sendall(b'y')")
    wait_until(lambda: asked(s, FIONREAD) == 2)
    say("disarmed", told(epoll, names))
    epoll.modify(s, select.EPOLLIN | select.EPOLLONESHOT)
    say("armed", [told(epoll, names) for _ in range(2)])
    peer("reset(c)")
    wait_for(s, select.POLLERR)
    say("an error does not fire it", told(epoll, names))


@scenario
def epoll_of_a_connection_under_way():
    s = tcp()
    epoll = keep(select.epoll())
    epoll.register(s, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)
    names = {s.fileno(): "s"}
    say("fresh", [told(epoll, names) for _ in range(2)])
    port = peer("listener=serve(); result=listener.getsockname()[1]")
    s.setblocking(False)
    say("connect", attempt(s.connect, (PEER, port)))
    say("connected", told(epoll, names, PATIENCE))
    say("no news", told(epoll, names))
    t = tcp()
    t.setblocking(False)
    names[t.fileno()] = "t"
    epoll.register(t, select.EPOLLOUT | select.EPOLLET)
    say("fresh", told(epoll, names))
    say("connect", attempt(t.connect, (PEER, peer("listener.close(); l2=serve(); result=l2.getsockname()[1]; l2.close()"))))
    # Both ends come by themselves: the set is asked when it has both.
    for each in (s, t):
        ended = select.poll()
        ended.register(each, 0)
        ended.poll(5_000)
    say("refused", told(epoll, names, PATIENCE))
    say("no news", told(epoll, names))


@scenario
def epoll_of_a_listener():
    s = listening()
    s.setblocking(False)
    names = {s.fileno(): "s"}
    for name, flags in (("level", 0), ("edge", select.EPOLLET), ("exclusive", select.EPOLLEXCLUSIVE)):
        epoll = keep(select.epoll())
        say(f"{name}, register", attempt(epoll.register, s, select.EPOLLIN | flags))
        say(name, told(epoll, names))
        call_in(s)
        say(f"{name}, pending", told(epoll, names, PATIENCE))
        say(f"{name}, again", told(epoll, names))
        s.accept()[0].close()
        say(f"{name}, taken", told(epoll, names))
        say(f"{name}, unregister", attempt(epoll.unregister, s))


@scenario
def epoll_of_copies():
    s = connected()
    copy = os.dup(s.fileno())
    names = {s.fileno(): "s", copy: "copy"}
    epoll = keep(select.epoll())
    say("register both", (attempt(epoll.register, s, select.EPOLLOUT), attempt(epoll.register, copy, select.EPOLLIN)))
    say("register the copy again", attempt(epoll.register, copy, select.EPOLLIN))
    say("poll", told(epoll, names))
    peer("c.sendall(b'x')")
    wait_for(s, select.POLLIN)
    say("data", told(epoll, names))
    say("unregister the copy", attempt(epoll.unregister, copy))
    say("poll", told(epoll, names))
    say("register the copy", attempt(epoll.register, copy, select.EPOLLIN))
    say("unregister s", attempt(epoll.unregister, s))
    say("poll", told(epoll, names))
    say("modify s", attempt(epoll.modify, s, select.EPOLLOUT))
    os.close(copy)
    # Linux goes on reporting a number that is closed while another copy is open.
    say("the copy is closed", told(epoll, names))


@scenario
def epoll_survives_close_of_one_copy():
    s = connected()
    copy = os.dup(s.fileno())
    epoll = keep(select.epoll())
    epoll.register(s, select.EPOLLOUT)
    number = s.detach()
    os.close(number)
    say("poll", told(epoll, {number: "closed", copy: "copy"}))
    os.close(copy)
    say("all closed", told(epoll, {number: "closed", copy: "copy"}))


@scenario
def epoll_in_epoll():
    s = connected()
    inner, outer = keep(select.epoll()), keep(select.epoll())
    inner.register(s, select.EPOLLIN)
    outer.register(inner, select.EPOLLIN)
    names = {s.fileno(): "s", inner.fileno(): "inner"}
    say("idle", told(outer, names))
    peer("c.sendall(b'x')")
    say("outer", told(outer, names, PATIENCE))
    say("inner", told(inner, names))
    say("poll of outer", events(outer))
    s.recv(1)
    say("taken", (told(outer, names), told(inner, names)))


@scenario
def many_waiters():
    s = connected()
    joins = [
        blocked(lambda: named(select_poll(s))),
        blocked(lambda: len(select.select([s], [], [])[0])),
        blocked(lambda: epoll_wait(s)),
    ]
    peer("c.sendall(b'x')")
    say("woken", [join() for join in joins])


def select_poll(s):
    poll = select.poll()
    poll.register(s, select.POLLIN)
    return poll.poll()[0][1]


def epoll_wait(s):
    with select.epoll() as epoll:
        epoll.register(s, select.EPOLLIN)
        return named(epoll.poll()[0][1])


run()
