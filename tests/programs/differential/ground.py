"""What the differential programs have in common. Each says what it saw line by line; the same program runs on the host
kernel and under Persona, and the lines have to be equal. So nothing is printed that chance decides (free ports, times,
sizes of buffers), and whoever waits waits for something to happen, never for time to pass."""

import array, ctypes, errno, fcntl, json, os, select, signal, socket, struct, sys, termios, threading, time, traceback

OURS, PEER, CONTROL = sys.argv[1:4]
# Behind the peer, which drops what is sent there, says that the host cannot be reached, or that it is forbidden.
SILENT, UNREACHABLE, PROHIBITED = "10.98.0.1", "10.99.0.1", "10.97.0.1"
# Longest wait, in seconds, for something that is going to happen.
PATIENCE = 10

libc = ctypes.CDLL(None, use_errno=True)


def connect_control():
    control = socket.socket(socket.AF_UNIX)
    for _ in range(PATIENCE * 100):
        try:
            control.connect(CONTROL)
            return control.makefile("rw")
        except OSError:
            time.sleep(0.01)
    raise SystemExit("the puppet does not listen")


control = connect_control()


def peer(code):
    """Runs Python in the peer's namespace and returns its `result`."""
    control.write(json.dumps(code) + "\n")
    control.flush()
    answer = json.loads(control.readline())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["result"]


def attempt(function, *arguments):
    """The result of a call, or the name of its error."""
    try:
        return function(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def raw(name, *arguments):
    """As `attempt`, of the function of libc with this name."""
    result = getattr(libc, name)(*arguments)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result


def say(what, value):
    print(f"{scenario_name}: {what}: {value}", flush=True)


BITS = {1: "IN", 2: "PRI", 4: "OUT", 8: "ERR", 16: "HUP", 32: "NVAL", 64: "RDNORM", 128: "RDBAND", 256: "WRNORM"}
BITS |= {512: "WRBAND", 0x2000: "RDHUP"}
ALL = sum(BITS) & ~0x20


def named(mask):
    return "|".join(name for bit, name in BITS.items() if mask & bit) or "none"


def events(s):
    """What poll says at once."""
    poll = select.poll()
    poll.register(s, ALL)
    found = poll.poll(0)
    return named(found[0][1] if found else 0)


def epoll_events(s):
    """What a new epoll set says at once."""
    with select.epoll() as epoll:
        epoll.register(s, ALL)
        found = epoll.poll(0)
        return named(found[0][1] if found else 0)


def selected(s):
    """The sets of select() that it is in."""
    found = select.select([s], [s], [s], 0)
    return "".join(letter for letter, members in zip("rwx", found) if members) or "none"


def wait_for(s, mask):
    """Until poll says one of the bits."""
    poll = select.poll()
    poll.register(s, mask)
    for _ in range(PATIENCE):
        if poll.poll(1000):
            return
    say("waited in vain for", named(mask))


def wait_until(condition):
    for _ in range(PATIENCE * 200):
        if condition():
            return
        time.sleep(0.005)
    say("waited in vain", "")


def place(address):
    """An address without the port that chance has chosen."""
    return (address[0], "a port" if address[1] else 0) if isinstance(address, tuple) else address


def names(s):
    say("getsockname", place(attempt(s.getsockname)))
    say("getpeername", place(attempt(s.getpeername)))


def error_of(s):
    number = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[number] if number else 0


def asked(s, request):
    """An ioctl that answers with a number."""
    number = array.array("i", [-1])
    result = attempt(fcntl.ioctl, s, request, number)
    return number[0] if result == 0 else result


FIONREAD, TIOCOUTQ, SIOCATMARK = termios.FIONREAD, termios.TIOCOUTQ, 0x8905


def watch(s, step):
    """All that can be seen without changing anything."""
    say(f"{step}, poll", events(s))
    say(f"{step}, epoll", epoll_events(s))
    say(f"{step}, select", selected(s))
    say(f"{step}, FIONREAD", asked(s, FIONREAD))
    # Of a socket without a peer Linux tells leftovers of its bookkeeping.
    if not isinstance(attempt(s.getpeername), str) or isinstance(asked(s, TIOCOUTQ), str):
        say(f"{step}, TIOCOUTQ", asked(s, TIOCOUTQ))


def tcp():
    return keep(socket.socket())


def connected():
    """A connection that we have opened; the peer's end is `c` there."""
    port = peer("listener=serve(); result=listener.getsockname()[1]")
    s = tcp()
    s.connect((PEER, port))
    peer("c=listener.accept()[0]; c.settimeout(10); listener.close()")
    return s


def listening(backlog=8):
    s = tcp()
    s.bind((OURS, 0))
    s.listen(backlog)
    return s


def call_in(listener):
    peer(f"c=socket.create_connection(('{OURS}',{listener.getsockname()[1]}),10)")


def accepted():
    """A connection that the peer has opened; its end is `c` there."""
    listener = listening()
    call_in(listener)
    s = keep(listener.accept()[0])
    listener.close()
    return s


ROLES = {"opened": connected, "accepted": accepted}


def blocked(function, *arguments):
    """Starts a call in a thread and returns, once the thread sleeps, a function that waits for the outcome."""
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(attempt(function, *arguments)), daemon=True)
    thread.start()
    asleep = 0
    for _ in range(PATIENCE * 200):
        try:
            state = open(f"/proc/self/task/{thread.native_id}/stat").read().rsplit(")", 1)[1].split()[0]
        except OSError:
            break
        asleep = asleep + 1 if state == "S" else 0
        if asleep == 20:
            break
        time.sleep(0.005)

    def join():
        thread.join(PATIENCE)
        return "still blocked" if thread.is_alive() else outcome[0]

    return join


kept = []
scenarios = []


def keep(s):
    kept.append(s)
    return s


def scenario(function):
    scenarios.append(function)
    return function


def run():
    global scenario_name
    for function in scenarios:
        scenario_name = function.__name__
        try:
            function()
        except Exception:
            say("raised", traceback.format_exc().strip().splitlines()[-1])
            traceback.print_exc()
        for s in kept:
            s.close()
        kept.clear()
    print("end", flush=True)
