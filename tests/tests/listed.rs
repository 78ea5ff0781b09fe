//! `persona sockets` lists what stays on the host, for as long as it is there.

use persona_tests::engine::interface;
use persona_tests::{Engine, Link, Topology};
use serde_json::json;

/// Sockets of the host in one process, closed in each way that there is. What is listed of this process is asked from
/// within; the engine hears of a change by message, so it may be a moment later. A process that has no socket of the engine's
/// has nobody to tell.
const PROGRAM: &str = "
import ctypes, json, os, socket, subprocess, sys, time
libc = ctypes.CDLL(None)
plain = {name: value for name, value in os.environ.items() if name != 'LD_PRELOAD'}
def rows():
    command = [PERSONA, 'sockets', '--name', NAME, '--json']
    out = subprocess.run(command, capture_output=True, check=True, env=plain).stdout
    return sorted(s['remote'] for s in json.loads(out) if s['state'] == 'HOST' and s['pid'] == os.getpid())
def expect(what, *wanted):
    for _ in range(100):
        found = rows()
        if found == sorted(wanted): return
        time.sleep(0.02)
    sys.exit('%s: %r instead of %r' % (what, found, wanted))
def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ANY = '*:*'

attached = socket.socket()
first = udp(); expect('opened', ANY)
copy = first.dup(); first.close(); expect('a copy is left', ANY)
copy.close(); expect('closed')

under = udp(); null = os.open('/dev/null', os.O_RDWR)
os.dup2(null, under.fileno()); expect('replaced')
over = udp(); os.dup2(over.fileno(), null); over.close(); expect('the copy that replaced is left', ANY)
os.close(null); expect('closed it, too')

many = [udp() for _ in range(3)]; expect('three', ANY, ANY, ANY)
os.closerange(many[0].fileno(), many[2].fileno() + 1); expect('a range was closed')

stream = udp(); libc.fdopen.restype = ctypes.c_void_p
file = libc.fdopen(stream.fileno(), b'r'); libc.fclose(ctypes.c_void_p(file)); stream.detach(); expect('closed as a stream')

ours = socket.socket()
try: ours.connect(('10.9.0.1', 7777))
except OSError as error: print('the host says', error.errno, flush=True)
held = ours.dup(); expect('by a rule', '10.9.0.1:7777')
child = os.fork()
if child == 0:
    ours.close(); held.close(); other = udp(); expect('the child has its own', ANY)
    other.close(); expect('and it is gone'); os._exit(0)
if os.waitpid(child, 0)[1] != 0: sys.exit('in the child')
expect('as if there were no child', '10.9.0.1:7777')
ours.close(); expect('one copy is left', '10.9.0.1:7777')
held.close(); expect('none is')

# More than there are rows, several times over.
for _ in range(3):
    crowd = [udp() for _ in range(300)]
    if len(rows()) < 200: sys.exit('%d of 300 are listed' % len(rows()))
    for one in crowd: one.close()
    expect('the crowd has left')
print('all')
";

#[test]
fn sockets_on_the_host_are_listed_until_they_are_closed() {
    let topology = Topology::new(Link::default()).unwrap();
    let config = json!({
        "interfaces": [interface("xdp", &topology)],
        "rules": [{ "port": 7777, "use": "host" }],
    });
    let engine = Engine::start_with(&topology, &config).unwrap();
    let persona = persona_tests::binary("persona").display().to_string();
    let program =
        PROGRAM.replace("PERSONA,", &format!("{persona:?},")).replace("NAME,", &format!("{:?},", engine.name));
    let told = engine.told(&topology, &program);
    assert!(told.ends_with("all\n"), "{told}");
}
