//! Many connections, and the ways in which one can begin and end.

use persona_tests::{Engine, Finished, Link, Side, Topology};
use serde_json::json;

/// Runs a Python server on one side and a client on the other; both must print "ok".
fn pair(server_under_persona: bool, queues: u32, server: &str, client: &str) {
    let topology = Topology::new(Link { queues, ..Link::default() }).unwrap();
    let interface = persona_tests::engine::interface("xdp", &topology);
    let engine = Engine::start_with(&topology, &json!({ "interfaces": [interface], "shards": queues })).unwrap();
    let address = if server_under_persona { "10.9.0.2" } else { "10.9.0.1" };
    let prelude = format!("import socket,select,errno,struct,threading\nADDRESS=('{address}',8000)\n");
    let ours = Side::Persona(&engine);
    let (server_side, client_side) = if server_under_persona { (ours, Side::Peer) } else { (Side::Peer, ours) };
    let running = (!server.is_empty()).then(|| {
        let running = topology.spawn(server_side, &["python3", "-c", &(prelude.clone() + server)]).unwrap();
        if server_under_persona {
            engine.wait_for_listener(8000).unwrap();
        } else {
            topology.wait_for_peer_listener(8000).unwrap();
        }
        running
    });
    let client = topology.spawn(client_side, &["python3", "-c", &(prelude + client)]).unwrap().finish(120);
    let server = running.map(|running| running.finish(30));
    let told = |end: &anyhow::Result<Finished>| match end {
        Ok(end) => format!("{}{}", end.stdout, end.stderr),
        Err(error) => error.to_string(),
    };
    let (client, server) = (told(&client), server.as_ref().map_or("ok".into(), told));
    assert!(client.trim() == "ok" && server.trim() == "ok", "client: {client}\nserver: {server}");
    topology.assert_kernel_saw_no_tcp().unwrap();
}

fn both(server: &str, client: &str) {
    for server_under_persona in [true, false] {
        pair(server_under_persona, 1, server, client);
    }
}

const SHORT_SERVER: &str = "
s=socket.create_server(ADDRESS,backlog=1024)
for _ in range(10000):
    c=s.accept()[0]
    d=c.recv(100)
    c.sendall(d[::-1])
    c.close()
print('ok')";

const SHORT_CLIENT: &str = "
for i in range(10000):
    c=socket.create_connection(ADDRESS)
    m=b'%d'%i
    c.sendall(m)
    assert c.recv(100)==m[::-1]
    assert c.recv(1)==b''
    c.close()
print('ok')";

#[test]
fn ten_thousand_short_connections_accepted() {
    pair(true, 1, SHORT_SERVER, SHORT_CLIENT);
}

#[test]
fn ten_thousand_short_connections_opened() {
    pair(false, 1, SHORT_SERVER, SHORT_CLIENT);
}

#[test]
fn ten_thousand_short_connections_over_two_shards() {
    pair(true, 2, SHORT_SERVER, SHORT_CLIENT);
}

const MANY_SERVER: &str = "
s=socket.create_server(ADDRESS,backlog=2048)
s.setblocking(False)
p=select.epoll(); p.register(s,select.EPOLLIN)
open_={}; done=0
while done<1000:
    for f,e in p.poll(20):
        if f==s.fileno():
            while True:
                try: c=s.accept()[0]
                except BlockingIOError: break
                c.setblocking(False); open_[c.fileno()]=c; p.register(c,select.EPOLLIN)
        else:
            c=open_[f]; d=c.recv(4096)
            if d: c.send(d)
            else: p.unregister(f); del open_[f]; c.close(); done+=1
print('ok')";

const MANY_CLIENT: &str = "
cs=[socket.create_connection(ADDRESS) for _ in range(1000)]
for r in range(3):
    for i,c in enumerate(cs): c.sendall(b'%d:%d'%(r,i))
    for i,c in enumerate(cs): assert c.recv(100)==b'%d:%d'%(r,i)
for c in cs: c.close()
print('ok')";

#[test]
fn a_thousand_connections_at_once() {
    both(MANY_SERVER, MANY_CLIENT);
}

#[test]
fn half_close_lets_the_answer_come_after_the_end_of_the_request() {
    both(
        "
s=socket.create_server(ADDRESS); c=s.accept()[0]
d=b''
while True:
    x=c.recv(65536)
    if not x: break
    d+=x
c.sendall(d*3); c.close()
print('ok')",
        "
c=socket.create_connection(ADDRESS); c.sendall(b'x'*300000); c.shutdown(socket.SHUT_WR)
n=0
while True:
    x=c.recv(65536)
    if not x: break
    n+=len(x)
assert n==900000,n
print('ok')",
    );
}

#[test]
fn a_reset_reaches_the_other_end() {
    both(
        "
s=socket.create_server(ADDRESS); c=s.accept()[0]
c.recv(1)
c.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,struct.pack('ii',1,0)); c.close()
print('ok')",
        "
c=socket.create_connection(ADDRESS); c.sendall(b'x')
try: c.recv(1); raise SystemExit('no reset')
except ConnectionResetError: print('ok')",
    );
}

#[test]
fn unread_bytes_at_close_reset_the_connection() {
    both(
        "
import time
s=socket.create_server(ADDRESS); c=s.accept()[0]
select.select([c],[],[])
c.close()
print('ok')",
        "
c=socket.create_connection(ADDRESS); c.sendall(b'unread')
try: c.recv(1); raise SystemExit('no reset')
except ConnectionResetError: print('ok')",
    );
}

#[test]
fn a_connect_to_a_closed_port_is_refused() {
    for persona_listens in [true, false] {
        pair(
            persona_listens,
            1,
            "",
            "
try: socket.create_connection(ADDRESS); raise SystemExit('connected')
except ConnectionRefusedError: pass
c=socket.socket(); c.setblocking(False)
e=c.connect_ex(ADDRESS); assert e==errno.EINPROGRESS,(ADDRESS,e)
select.select([],[c],[])
assert c.getsockopt(socket.SOL_SOCKET,socket.SO_ERROR)==errno.ECONNREFUSED
assert c.getsockopt(socket.SOL_SOCKET,socket.SO_ERROR)==0
print('ok')",
        );
    }
}
