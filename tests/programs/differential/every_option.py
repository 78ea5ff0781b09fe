"""Every socket option by its number: what each size, value and state brings, and what accept() passes on. The options are those
of docs/sockopts.md, and the numbers between them, which neither side may know."""

import pathlib

from ground import *

TCP, IP, SOL = socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.SOL_SOCKET
LEVELS = {"SOL_SOCKET": (SOL, 95), "IPPROTO_TCP": (TCP, 60), "IPPROTO_IP": (IP, 60)}
VALUES = (0, 1, -1, 2, 7, 100_000)
SIZES = (0, 1, 2, 3, 4, 8, 12, 16, 20, 40)
ROOMS = (0, 1, 2, 3, 4, 7, 8, 12, 16, 300)

# What the two may show differently: sizes that depend on the machine, the filter of a datagram socket's multicast groups, and
# what is looked at elsewhere.
BY_MACHINE = {"SO_SNDBUF", "SO_RCVBUF", "SO_MEMINFO", "SO_COOKIE", "SO_INCOMING_NAPI_ID", "TCP_INFO", "IP_MSFILTER"}
# Names that chance gives, what depends on moments, what is kept of the peer's SYN and last segment; Linux forgets the MTU with
# the route when some options are set.
BY_CHANCE = {"SO_PEERNAME", "IP_PROTOCOL", "SO_INCOMING_CPU", "TCP_QUICKACK", "TCP_WINDOW_CLAMP", "IP_MTU"}
BY_CHANCE |= {"IP_PKTOPTIONS", "TCP_SAVED_SYN", "IP_MULTICAST_TTL"}


def documented():
    """Level, number, name, and whether the document says that Persona does as Linux."""
    level, rows = None, {}
    for line in (pathlib.Path(__file__).parents[3] / "docs/sockopts.md").read_text().splitlines():
        if line.startswith("## "):
            level = LEVELS[line[3:]][0]
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[2].isdigit():
            _, name, number, treatment, remarks, _ = cells
            same = treatment != "refused" or "on Linux" in remarks or remarks in ("EPROTO", "EINVAL")
            rows[level, int(number)] = name, same and "without CAP" not in remarks
    for level, (number, end) in LEVELS.items():
        for other in range(end):
            rows.setdefault((number, other), (f"{level} {other}", True))
    return sorted((level, number, *row) for (level, number), row in rows.items())


OPTIONS = documented()
assert len(OPTIONS) > 200


def plain():
    s = tcp()
    # The host's default is what its administrator wants.
    s.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
    return s


def shown(s, level, number, room=300):
    value = attempt(s.getsockopt, level, number, room)
    return value.hex() if isinstance(value, bytes) else value


def taken(s, level, number, value):
    """The outcome of setting, and what is read back."""
    outcome = attempt(s.setsockopt, level, number, value)
    return "taken" if outcome is None else outcome, shown(s, level, number)


@scenario
def fresh():
    for level, number, name, same in OPTIONS:
        if same and name not in BY_MACHINE:
            say(f"{name} by room", [shown(plain(), level, number, room) for room in ROOMS])


@scenario
def short():
    for level, number, name, _ in OPTIONS:
        if level != IP:
            outcomes = [attempt(plain().setsockopt, level, number, bytes(size)) for size in (1, 2, 3)]
            say(f"{name} of 1, 2, 3 bytes", outcomes if name not in ("TCP_FASTOPEN_KEY", "TCP_ULP") else outcomes[:0])


@scenario
def of_each_size():
    for level, number, name, same in OPTIONS:
        if same and name not in BY_MACHINE:
            say(f"{name} by size", [taken(plain(), level, number, bytes(size)) for size in SIZES])


@scenario
def of_each_value():
    for level, number, name, same in OPTIONS:
        if same and name not in BY_MACHINE:
            # The least that -1 stands for is the machine's.
            values = VALUES if name != "SO_RCVLOWAT" else [value for value in VALUES if value >= 0]
            say(f"{name} by value", [taken(plain(), level, number, value) for value in values])
            s = plain()
            say(f"{name}, one after another", [taken(s, level, number, value) for value in values])


@scenario
def on_a_listener():
    s = plain()
    s.bind((OURS, 0))
    s.listen()
    for level, number, name, same in OPTIONS:
        if same and name not in BY_MACHINE and name not in ("IP_PROTOCOL", "IP_PKTOPTIONS", "SO_RCVLOWAT"):
            say(name, [taken(s, level, number, value) for value in VALUES])


@scenario
def on_a_connection():
    for role, make in ROLES.items():
        s = make()
        s.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
        for level, number, name, same in OPTIONS:
            if same and name not in BY_MACHINE | BY_CHANCE and name != "SO_RCVLOWAT":
                say(f"{role}, {name}", [shown(s, level, number)] + [taken(s, level, number, value) for value in VALUES])


@scenario
def passed_on():
    for before in (True, False):
        listener = plain()
        listener.bind((OURS, 0))
        if not before:
            listener.listen()
        for level, number, name, same in OPTIONS:
            if same and name not in BY_MACHINE and name != "SO_RCVLOWAT":
                for value in (7, 1):
                    attempt(listener.setsockopt, level, number, value)
        listener.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 9))
        if before:
            listener.listen()
        call_in(listener)
        s = keep(listener.accept()[0])
        for level, number, name, same in OPTIONS:
            if same and name not in BY_MACHINE | BY_CHANCE:
                say(f"{name}, set before listen() {before}", shown(s, level, number))


@scenario
def peer_name():
    s = connected()
    for room in (0, 2, 8, 16, 17):
        found = attempt(s.getsockopt, SOL, 28, room)
        say(f"SO_PEERNAME in {room} bytes", found if isinstance(found, str) else (found[:2], len(found)))
    name = s.getsockopt(SOL, 28, 16)
    say("is the peer's", (socket.inet_ntoa(name[4:8]), int.from_bytes(name[2:4], "big") == s.getpeername()[1]))
    say("IP_MTU", s.getsockopt(IP, 14))
    say("IP_PROTOCOL", s.getsockopt(IP, 52) == s.getsockname()[1])
    say("SO_COOKIE in 4 bytes", attempt(s.getsockopt, SOL, 57, 4))
    cookies = {t.getsockopt(SOL, 57, 8) for t in (s, connected(), tcp())}
    say("SO_COOKIE is unique", (len(cookies), bytes(8) in cookies))


@scenario
def negative_sizes():
    fd, room = tcp().fileno(), ctypes.create_string_buffer(16)
    for level, number in ((SOL, socket.SO_KEEPALIVE), (TCP, socket.TCP_NODELAY), (IP, socket.IP_TTL), (99, 1)):
        say(f"set {level}.{number}", raw("setsockopt", fd, level, number, room, -1))
        say(f"get {level}.{number}", raw("getsockopt", fd, level, number, room, ctypes.byref(ctypes.c_int(-1))))


@scenario
def tcp_info():
    s = plain()
    for room in (0, 1, 7, 104, 192, 232, 240, 280, 300):
        say(f"room for {room} bytes", len(s.getsockopt(TCP, socket.TCP_INFO, room)))
    # Fields whose value follows from the state alone: rto, snd_mss, ssthresh, cwnd, reordering, pacing rates.
    for name, t in (("fresh", s), ("listening", listening(5))):
        told = t.getsockopt(TCP, socket.TCP_INFO, 280)
        words = struct.unpack("24I", told[8:104])
        say(f"{name}, state to flags", tuple(told[:8]))
        say(f"{name}, rto, ato, segments", words[:4])
        say(f"{name}, unacked, sacked, lost, retrans", words[4:8])
        say(f"{name}, pmtu", words[13])
        say(f"{name}, rtt, rttvar, ssthresh", words[15:18])
        say(f"{name}, advmss", words[19])
        say(f"{name}, total_retrans", words[23])
        say(f"{name}, from bytes_acked on", told[120:].count(0) == len(told[120:]))
    s = connected()
    s.sendall(b"x" * 1000)
    peer("c.recv(1000)")
    wait_until(lambda: asked(s, TIOCOUTQ) == 0)
    peer("c.sendall(b'y' * 300)")
    wait_until(lambda: asked(s, FIONREAD) == 300)
    told = s.getsockopt(TCP, socket.TCP_INFO, 280)
    words = struct.unpack("24I", told[8:104])
    say("rto, rtt, rttvar are there", (words[0] > 0, words[15] > 0, words[16] > 0))
    say("cwnd", words[18])
    acked, received = struct.unpack("QQ", told[120:136])
    # Linux counts the SYN.
    say("acked, received", (acked in (1000, 1001), received))
    say("not sent", struct.unpack("I", told[144:148])[0])
    say("bytes sent, sent again", struct.unpack("QQ", told[200:216]))
    say("the windows are there", [word > 0 for word in struct.unpack("II", told[228:236])])


run()
