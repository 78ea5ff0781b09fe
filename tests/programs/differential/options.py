"""Options: defaults, what is read back after setting, refusals, and what TCP_INFO says."""

from ground import *

TCP, IP, SOL = socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.SOL_SOCKET

# Name, level, number, values to be set. What a default depends on (buffers, sysctls) is left out of "defaults".
NUMBERS = [
    ("SO_REUSEADDR", SOL, socket.SO_REUSEADDR, (1, 0, 5)),
    ("SO_REUSEPORT", SOL, socket.SO_REUSEPORT, (1, 0)),
    ("SO_KEEPALIVE", SOL, socket.SO_KEEPALIVE, (1, 0, 7)),
    ("SO_BROADCAST", SOL, socket.SO_BROADCAST, (1, 0)),
    ("SO_DONTROUTE", SOL, socket.SO_DONTROUTE, (1, 0)),
    ("SO_OOBINLINE", SOL, socket.SO_OOBINLINE, (1, 0)),
    ("SO_PRIORITY", SOL, socket.SO_PRIORITY, (3, 0)),
    ("SO_MARK", SOL, 36, (7, 0)),
    ("SO_RCVLOWAT", SOL, socket.SO_RCVLOWAT, (10, 0, 1)),
    ("SO_SNDLOWAT", SOL, socket.SO_SNDLOWAT, (10,)),
    ("SO_TYPE", SOL, socket.SO_TYPE, (1,)),
    ("SO_PROTOCOL", SOL, socket.SO_PROTOCOL, (1,)),
    ("SO_DOMAIN", SOL, socket.SO_DOMAIN, (1,)),
    ("SO_ACCEPTCONN", SOL, socket.SO_ACCEPTCONN, (1,)),
    ("SO_ERROR", SOL, socket.SO_ERROR, (1,)),
    ("SO_TIMESTAMP", SOL, 29, (1, 0)),
    ("SO_INCOMING_CPU of nothing", SOL, 4711, (1,)),
    ("TCP_NODELAY", TCP, socket.TCP_NODELAY, (1, 0, 9)),
    ("TCP_CORK", TCP, socket.TCP_CORK, (1, 0)),
    ("TCP_KEEPIDLE", TCP, socket.TCP_KEEPIDLE, (1, 60, 32767, 0, 32768, -1)),
    ("TCP_KEEPINTVL", TCP, socket.TCP_KEEPINTVL, (1, 10, 32767, 0, 32768)),
    ("TCP_KEEPCNT", TCP, socket.TCP_KEEPCNT, (1, 127, 0, 128)),
    ("TCP_SYNCNT", TCP, socket.TCP_SYNCNT, (1, 127, 0, 128)),
    ("TCP_LINGER2", TCP, socket.TCP_LINGER2, (5, -1)),
    ("TCP_DEFER_ACCEPT", TCP, socket.TCP_DEFER_ACCEPT, (0, 1, 3)),
    ("TCP_WINDOW_CLAMP", TCP, socket.TCP_WINDOW_CLAMP, (0, 65536)),
    ("TCP_QUICKACK", TCP, socket.TCP_QUICKACK, (0, 1)),
    ("TCP_USER_TIMEOUT", TCP, socket.TCP_USER_TIMEOUT, (1000, 0, -1)),
    ("TCP_MAXSEG", TCP, socket.TCP_MAXSEG, (1000, 87, 40000)),
    ("TCP_NOTSENT_LOWAT", TCP, 25, (4096,)),
    ("TCP_FASTOPEN_CONNECT of nothing", TCP, 4711, (1,)),
    ("IP_TOS", IP, socket.IP_TOS, (0x10, 0xB8, 0)),
    ("IP_TTL", IP, socket.IP_TTL, (1, 255, 0, 256, -1)),
    ("IP_MTU_DISCOVER", IP, 10, (0, 1, 2, 3, 9)),
    ("IP_RECVERR", IP, 11, (1, 0)),
    ("IP_FREEBIND", IP, 15, (1, 0)),
    ("IP_MINTTL", IP, 21, (5, 0, 256)),
    ("IP_BIND_ADDRESS_NO_PORT", IP, 24, (1, 0)),
    ("IP_PKTINFO", IP, 8, (1, 0)),
    ("IP_RECVTOS", IP, 13, (1, 0)),
    ("IP_RECVTTL", IP, 12, (1, 0)),
]


@scenario
def defaults():
    s = tcp()
    for name, level, number, _ in NUMBERS:
        if name != "TCP_WINDOW_CLAMP":
            say(name, attempt(s.getsockopt, level, number))
    say("SO_LINGER", struct.unpack("ii", s.getsockopt(SOL, socket.SO_LINGER, 8)))
    for name in ("SO_RCVTIMEO", "SO_SNDTIMEO"):
        say(name, struct.unpack("ll", s.getsockopt(SOL, getattr(socket, name), 16)))


@scenario
def read_back():
    for name, level, number, values in NUMBERS:
        s = tcp()
        for value in values:
            say(f"{name} = {value}", (attempt(s.setsockopt, level, number, value), attempt(s.getsockopt, level, number)))


@scenario
def read_back_on_a_connection():
    # What is different once there is a peer: TCP_MAXSEG shows the segment size in use, TCP_SYNCNT nothing new.
    s = connected()
    for name, level, number, values in NUMBERS:
        if name in ("TCP_WINDOW_CLAMP", "SO_RCVLOWAT", "TCP_QUICKACK", "IP_MTU_DISCOVER"):
            continue
        for value in values:
            say(f"{name} = {value}", (attempt(s.setsockopt, level, number, value), attempt(s.getsockopt, level, number)))


@scenario
def buffers():
    s = tcp()
    for name in ("SO_SNDBUF", "SO_RCVBUF"):
        number = getattr(socket, name)
        for value in (10000, 65536, 0):
            say(f"{name} = {value}", (attempt(s.setsockopt, SOL, number, value), s.getsockopt(SOL, number)))


@scenario
def linger_and_timeouts():
    s = tcp()
    for value in ((1, 0), (1, 30), (0, 30), (7, 1)):
        s.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", *value))
        say(f"SO_LINGER {value}", struct.unpack("ii", s.getsockopt(SOL, socket.SO_LINGER, 8)))
    for name in ("SO_RCVTIMEO", "SO_SNDTIMEO"):
        number = getattr(socket, name)
        for value in ((1, 500_000), (0, 0), (0, 1_000_000), (0, -1), (100, 20_000)):
            outcome = attempt(s.setsockopt, SOL, number, struct.pack("ll", *value))
            say(f"{name} {value}", (outcome, struct.unpack("ll", s.getsockopt(SOL, number, 16))))
        say(f"{name}, short", attempt(s.setsockopt, SOL, number, bytes(8)))
    say("SO_LINGER, short", attempt(s.setsockopt, SOL, socket.SO_LINGER, bytes(4)))


@scenario
def sizes():
    s = tcp()
    say("SO_KEEPALIVE of 1 byte", attempt(s.setsockopt, SOL, socket.SO_KEEPALIVE, b"\1"))
    say("SO_KEEPALIVE of 8 bytes", attempt(s.setsockopt, SOL, socket.SO_KEEPALIVE, b"\1" + bytes(7)))
    say("SO_RCVLOWAT of 1 byte", attempt(s.setsockopt, SOL, socket.SO_RCVLOWAT, b"\1"))
    say("TCP_NODELAY of 1 byte", attempt(s.setsockopt, TCP, socket.TCP_NODELAY, b"\1"))
    say("TCP_NODELAY of 0 bytes", attempt(s.setsockopt, TCP, socket.TCP_NODELAY, b""))
    say("IP_TOS of 1 byte", (attempt(s.setsockopt, IP, socket.IP_TOS, b"\x10"), s.getsockopt(IP, socket.IP_TOS)))
    for name, level, number in (
        ("SO_KEEPALIVE", SOL, socket.SO_KEEPALIVE),
        ("SO_ERROR", SOL, socket.SO_ERROR),
        ("SO_LINGER", SOL, socket.SO_LINGER),
        ("SO_RCVTIMEO", SOL, socket.SO_RCVTIMEO),
        ("TCP_NODELAY", TCP, socket.TCP_NODELAY),
        ("IP_TOS", IP, socket.IP_TOS),
        ("IP_TTL", IP, socket.IP_TTL),
    ):
        # The first two bytes only: a short value shows as much as fits.
        say(f"{name} by size", [attempt(s.getsockopt, level, number, size) for size in (1, 2, 4, 8, 16)])
    say("nowhere", raw("setsockopt", s.fileno(), SOL, socket.SO_KEEPALIVE, None, 4))
    say("into nowhere", raw("getsockopt", s.fileno(), SOL, socket.SO_KEEPALIVE, None, ctypes.byref(ctypes.c_uint(4))))
    say("unknown level", attempt(s.setsockopt, 99, 1, 1))
    say("unknown level, get", attempt(s.getsockopt, 99, 1))
    say("SOL_IPV6", attempt(s.setsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1))
    say("SOL_UDP", attempt(s.setsockopt, socket.IPPROTO_UDP, 1, 1))


@scenario
def congestion_control():
    s = tcp()
    for name in (b"reno", b"cubic", b"nosuch", b""):
        outcome = attempt(s.setsockopt, TCP, socket.TCP_CONGESTION, name)
        say(name, (outcome, s.getsockopt(TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") if outcome is None else ""))
    s.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
    say("by size", [s.getsockopt(TCP, socket.TCP_CONGESTION, size) for size in (4, 16, 40)])
    say("TCP_ULP", attempt(s.setsockopt, TCP, 31, b"nosuch"))


def info(s, step):
    told = s.getsockopt(TCP, socket.TCP_INFO, 104)
    state, ca_state, retransmits, probes, _, options = told[:6]
    words = struct.unpack("24I", told[8:104])
    snd_mss, unacked, sacked, lost, retrans = words[2], *words[4:8]
    say(f"{step}, state, congestion, retransmits, probes", (state, ca_state, retransmits, probes))
    if state == 1:
        say(f"{step}, options, segment", (options & 7, snd_mss))
        say(f"{step}, unacked, sacked, lost, retrans", (unacked, sacked, lost, retrans))
        say(f"{step}, pmtu, advmss, reordering", (words[13], words[19], words[20]))
        say(f"{step}, rto, rtt and rttvar are there", (words[0] > 0, words[15] > 0, words[16] > 0))


@scenario
def tcp_info():
    s = tcp()
    info(s, "fresh")
    s.setblocking(False)
    attempt(s.connect, (SILENT, 9))
    info(s, "connecting")
    s = listening()
    info(s, "listening")
    for role, make in ROLES.items():
        s = make()
        s.send(b"x")
        peer("c.recv(1)")
        wait_until(lambda: asked(s, TIOCOUTQ) == 0)
        info(s, role)
        peer("c.shutdown(socket.SHUT_WR)")
        wait_for(s, select.POLLRDHUP)
        info(s, f"{role}, close wait")
        s = make()
        s.shutdown(socket.SHUT_WR)
        peer("c.recv(1)")
        wait_until(lambda: s.getsockopt(TCP, socket.TCP_INFO, 1)[0] != 4)
        info(s, f"{role}, fin wait")
        peer("reset(c)")
        wait_for(s, select.POLLERR | select.POLLHUP)
        info(s, f"{role}, reset")
    say("TCP_MAXSEG", make().getsockopt(TCP, socket.TCP_MAXSEG))
    say("set TCP_INFO", attempt(s.setsockopt, TCP, socket.TCP_INFO, 1))


@scenario
def file_flags():
    s = tcp()
    say("F_GETFL", fcntl.fcntl(s, fcntl.F_GETFL))
    for flags in (os.O_NONBLOCK, os.O_APPEND, 0, os.O_NONBLOCK | os.O_RDONLY):
        say(f"F_SETFL {flags}", (attempt(fcntl.fcntl, s, fcntl.F_SETFL, flags), fcntl.fcntl(s, fcntl.F_GETFL)))
    copy = os.dup(s.fileno())
    say("shared by a copy", fcntl.fcntl(copy, fcntl.F_GETFL))
    fcntl.ioctl(s, 0x5421, struct.pack("i", 0))
    say("FIONBIO off", fcntl.fcntl(copy, fcntl.F_GETFL))
    os.close(copy)
    say("F_GETFD", fcntl.fcntl(s, fcntl.F_GETFD))
    say("F_SETFD", (fcntl.fcntl(s, fcntl.F_SETFD, 0), fcntl.fcntl(s, fcntl.F_GETFD)))
    say("isatty", os.isatty(s.fileno()))
    say("is a socket", os.fstat(s.fileno()).st_mode & 0o170000 == 0o140000)
    say("F_DUPFD", (lambda fd: (fd >= 800, fcntl.fcntl(fd, fcntl.F_GETFD), os.close(fd)))(fcntl.fcntl(s, fcntl.F_DUPFD, 800)))


run()
