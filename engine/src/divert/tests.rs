//! A diversion on a veth pair of its own, in both kinds of port, and across the death of its engine. Needs root.

use super::*;
use crate::host::fixture::{eventually, in_namespace, ip};
use crate::ledger::{Kind, Ledger};
use persona_ebpf::attach::attach_socket_filter;
use std::os::fd::{AsFd, AsRawFd};

const CAPACITY: Capacity = Capacity { queues: 1, flows: 16, listeners: 4 };
const XDP: PortKind = PortKind::Xdp { multi_buffer: false, mode: None };

fn local() -> SocketAddr {
    "10.9.0.2:40000".parse().unwrap()
}

fn remote() -> SocketAddr {
    "10.9.0.1:443".parse().unwrap()
}

fn xdp_attached() -> bool {
    persona_ebpf::attach::xdp_owner("us").unwrap().is_some()
}

#[test]
fn both_kinds_of_port_say_how_they_are_attached() {
    in_namespace(|| {
        let xdp = Diversion::attach("us", XDP, CAPACITY).unwrap();
        assert_eq!((xdp.attached().as_str(), xdp.xdp_mode()), ("xdp driver", Some(XdpMode::Driver)));
        assert!(xdp.socket_filter().is_err());
        drop(xdp);

        let mode = Some(XdpMode::Generic);
        let generic = Diversion::attach("us", PortKind::Xdp { multi_buffer: true, mode }, CAPACITY).unwrap();
        assert_eq!(generic.attached(), "xdp generic, multi-buffer");
        drop(generic);
        assert!(eventually(|| !xdp_attached()));

        let packet = Diversion::attach("us", PortKind::Packet, CAPACITY).unwrap();
        assert_eq!((packet.attached().as_str(), packet.xdp_mode()), ("tcx", None));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        attach_socket_filter(packet.socket_filter().unwrap().as_fd(), socket.as_fd()).unwrap();
    });
}

#[test]
fn what_is_entered_is_shown_with_its_hits_and_can_be_cleared() {
    in_namespace(|| {
        ip("addr add 10.9.0.2/24 dev us");
        let diversion = Diversion::attach("us", PortKind::Packet, CAPACITY).unwrap();
        diversion.add_address(local().ip(), AddressMode::Shared).unwrap();
        diversion.add_address("10.9.0.3".parse().unwrap(), AddressMode::Own).unwrap();
        diversion.add_listener("0.0.0.0:80".parse().unwrap()).unwrap();
        diversion.add_flow(local(), remote(), 1).unwrap();

        let shown = diversion.filter().unwrap();
        assert_eq!((shown.interface.as_str(), shown.attached.as_str(), shown.state.as_str()), ("us", "tcx", "run"));
        let rows: Vec<_> = shown
            .entries
            .iter()
            .map(|row| (row.kind.as_str(), row.local.as_str(), row.remote.as_deref(), row.shard, row.hits))
            .collect();
        assert_eq!(
            rows,
            [
                ("shared address", "10.9.0.2", None, None, 0),
                ("address", "10.9.0.3", None, None, 0),
                ("listener", "0.0.0.0:80", None, None, 0),
                ("flow", "10.9.0.2:40000", Some("10.9.0.1:443"), Some(1), 0),
            ]
        );
        assert!(diversion.stats().unwrap().counters.contains_key("DivertedFlow"));

        diversion.hold(Duration::from_secs(60)).unwrap();
        assert_eq!(diversion.filter().unwrap().state, "hold");
        diversion.pass().unwrap();
        assert_eq!(diversion.filter().unwrap().state, "pass");
        diversion.run().unwrap();
        diversion.clear().unwrap();
        assert_eq!(diversion.filter().unwrap().entries, []);
    });
}

#[test]
fn the_programs_outlive_the_engine_and_a_successor_goes_on() {
    in_namespace(|| {
        for kind in [XDP, PortKind::Packet] {
            let ledger = Ledger::create().unwrap();
            let first = Diversion::attach("us", kind, CAPACITY).unwrap();
            first.add_flow(local(), remote(), 0).unwrap();
            first.record(&ledger, 5).unwrap();
            let attached = first.attached();
            // A SIGKILL closes nothing in a descriptor table that the keeper shares.
            std::mem::forget(first);

            hold_all(&ledger, Duration::from_secs(60)).unwrap();
            assert!(Diversion::resume(&ledger, 4, "us").unwrap().is_none());
            assert_eq!(was_xdp(&ledger, 5), Some(kind == XDP));
            // One that fails while it starts leaves all of it to the next.
            let recorded: Vec<_> = ledger.entries().collect();
            drop(Diversion::resume(&ledger, 5, "us").unwrap().unwrap());
            assert_eq!(ledger.entries().collect::<Vec<_>>(), recorded);
            let second = Diversion::resume(&ledger, 5, "us").unwrap().unwrap();
            let shown = second.filter().unwrap();
            assert_eq!((shown.attached, shown.state.as_str(), shown.entries.len()), (attached, "hold", 1));
            if kind == PortKind::Packet {
                let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                attach_socket_filter(second.socket_filter().unwrap().as_fd(), socket.as_fd()).unwrap();
            }
            pass_all(&ledger).unwrap();
            assert_eq!(second.filter().unwrap().state, "pass");

            second.detach(&ledger, 5).unwrap();
            assert_eq!(ledger.entries().filter(|entry| entry.kind != Kind::Keeper).count(), 0);
            assert!(eventually(|| !xdp_attached()));
        }
    });
}

#[test]
fn the_keeper_detaches_what_a_dead_engine_left() {
    in_namespace(|| {
        let ledger = Ledger::create().unwrap();
        let left = Diversion::attach("us", XDP, CAPACITY).unwrap();
        left.record(&ledger, 0).unwrap();
        std::mem::forget(left);
        assert!(xdp_attached());
        // SAFETY: nobody owns the descriptors since `left` was forgotten.
        unsafe { detach_all(&ledger, |_| Some("us".into())) };
        assert!(eventually(|| !xdp_attached()));
        assert!(ledger.find(Kind::BpfLink, 0, 0).is_none());
    });
}

#[test]
fn a_clsact_filter_is_recorded_by_priority_and_handle() {
    in_namespace(|| {
        let ledger = Ledger::create().unwrap();
        let mut object = Object::load(&Sizes::default()).unwrap();
        let socket_filter = Some(object.program(Program::Socket).unwrap());
        let maps = object.maps().unwrap();
        let attachment = Attachment::Clsact(object.attach_clsact("us").unwrap());
        let first = Diversion { interface: "us".into(), attachment, socket_filter, maps };
        first.record(&ledger, 0).unwrap();
        std::mem::forget(first);
        let second = Diversion::resume(&ledger, 0, "us").unwrap().unwrap();
        assert_eq!(second.attached(), "clsact");
        let Attachment::Clsact(filter) = &second.attachment else { unreachable!() };
        assert!(filter.alive.as_raw_fd() >= 0 && filter.priority != 0 && filter.handle != 0);
        second.detach(&ledger, 0).unwrap();
        let listed =
            std::process::Command::new("tc").args(["filter", "show", "dev", "us", "ingress"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "");
    });
}
