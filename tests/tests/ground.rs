//! The tests' own ground, host kernel on both sides: what the other tests build on must hold without Persona.

use persona_tests::topology::PEER_ADDRESS;
use persona_tests::{Link, Side, Topology, binary};

#[test]
fn the_transfer_program_agrees_with_itself_over_the_host_kernel() {
    let topology = Topology::new(Link { shared: true, ..Link::default() }).unwrap();
    let transfer = binary("transfer").display().to_string();
    let address = format!("{PEER_ADDRESS}:5001");
    for (listen, connect) in [("send", "receive"), ("receive", "send"), ("both", "both"), ("echo", "echo")] {
        let bytes = if listen == "echo" { "64" } else { "3000001" };
        let server = topology.spawn(Side::Peer, &[&transfer, "listen", listen, bytes, &address]).unwrap();
        topology.wait_for_peer_listener(5001).unwrap();
        let client = topology.succeed(Side::Host, &[&transfer, "connect", connect, bytes, &address], 20).unwrap();
        let server = server.finish(20).unwrap();
        assert!(server.status.success(), "{}{}", server.stdout, server.stderr);
        let [client, server]: [serde_json::Value; 2] =
            [&client, &server].map(|end| serde_json::from_str(&end.stdout).unwrap());
        assert_eq!(client["sent_sha256"], server["received_sha256"]);
        assert_eq!(server["sent_sha256"], client["received_sha256"]);
    }
    // The kernel carried it: the counter that the other tests demand to be zero does move when it should.
    assert!(topology.assert_kernel_saw_no_tcp().is_err());
}

#[test]
fn a_program_that_does_not_end_is_ended() {
    let topology = Topology::new(Link::default()).unwrap();
    let error = topology.spawn(Side::Peer, &["sleep", "60"]).unwrap().finish(0).err().expect("bounded");
    assert!(error.to_string().contains("did not end"), "{error}");
}
