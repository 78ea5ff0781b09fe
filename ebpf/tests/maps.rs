//! The maps' face: what a successor and an unprivileged engine can do with descriptors alone, and what is refused.

mod common;

use common::frames::*;
use common::*;
use nix::libc;
use persona_ebpf::{AddressMode, Error, FlowKey, Hold, MapFds, Maps, Object, Reason};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};

/// What a successor does that finds the numbers in the ledger.
fn again(maps: &Maps) -> MapFds<OwnedFd> {
    // SAFETY: `maps` keeps the descriptors open meanwhile.
    maps.fds().map(|number| unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().unwrap())
}

#[test]
fn a_successor_goes_on_with_the_descriptors() {
    let mut bench = Bench::with_flow();
    let successor = Maps::from_fds(again(&bench.maps)).unwrap();
    assert_eq!(successor.flows().unwrap().len(), 2);
    successor.remove_flow(flow4()).unwrap();
    successor.insert_address(US4.into(), AddressMode::Own).unwrap();
    bench.expect("what the successor wrote", &Ipv4::default().frame(&segment()), Reason::DivertedAddress);
    assert_eq!(successor.counters().unwrap(), bench.counters());
    assert_eq!(successor.addresses().unwrap()[0].key, Ipv4Addr::new(10, 9, 0, 2));
}

#[test]
fn descriptors_of_other_maps_are_refused() {
    let bench = Bench::new();
    let mut swapped = again(&bench.maps);
    std::mem::swap(&mut swapped.flows, &mut swapped.listeners);
    let error = Maps::from_fds(swapped).unwrap_err();
    assert!(matches!(error, Error::ForeignMap { map: "flows", .. }), "{error}");

    let mut foreign = again(&bench.maps);
    foreign.hold_until = std::fs::File::open("/dev/null").unwrap().into();
    let error = Maps::from_fds(foreign).unwrap_err();
    assert!(matches!(error, Error::ForeignMap { map: "hold_until", .. }), "{error}");
}

#[test]
fn the_maps_work_without_any_privilege() {
    let bench = Bench::new();
    let maps = bench.maps;
    std::thread::spawn(move || {
        become_nobody();
        let refused = Object::load(&sizes()).unwrap_err().to_string();
        assert!(refused.contains("Operation not permitted") && refused.contains("CAP_BPF"), "{refused}");
        assert_eq!(refused.lines().count(), 1);
        maps.insert_flow(flow4(), 3).unwrap();
        maps.insert_listener(listener(US4, 80)).unwrap();
        maps.insert_address(US6.into(), AddressMode::Shared).unwrap();
        assert_eq!(maps.flows().unwrap()[0].value, 3);
        assert_eq!(maps.listeners().unwrap()[0].key, listener(US4, 80));
        assert_eq!(maps.addresses().unwrap()[0].value, AddressMode::Shared);
        assert!(maps.remove_flow(flow4()).unwrap());
        maps.set_hold(Hold::Pass).unwrap();
        assert_eq!(maps.hold().unwrap(), Hold::Pass);
        maps.counters().unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn a_full_map_says_so() {
    let bench = Bench::new();
    let flow = |port: u16| FlowKey::new(SocketAddr::new(US4.into(), port), SocketAddr::new(PEER4.into(), 1));
    for port in 0..64 {
        bench.maps.insert_flow(flow(port), 0).unwrap();
    }
    let error = bench.maps.insert_flow(flow(64), 0).unwrap_err();
    assert!(matches!(error, Error::Full { max: 64, .. }), "{error}");
    assert!(error.to_string().contains("another flow"), "{error}");

    // The same key again is no new entry.
    bench.maps.insert_flow(flow(0), 7).unwrap();
    let mut listed = bench.maps.flows().unwrap();
    listed.sort_by_key(|entry| entry.key);
    assert_eq!(listed.len(), 64);
    assert_eq!(listed[0].value, 7);
    assert!(listed.iter().enumerate().all(|(port, entry)| entry.key == flow(port as u16)));

    bench.maps.remove_flow(flow(5)).unwrap();
    bench.maps.insert_flow(flow(64), 0).unwrap();
}

#[test]
fn a_listener_that_is_there_keeps_its_hits() {
    let mut bench = Bench::new();
    bench.maps.insert_listener(listener(US4, 80)).unwrap();
    bench.expect("syn", &Ipv4::default().frame(&tcp(5555, 80, 0)), Reason::DivertedListener);
    bench.maps.insert_listener(listener(US4, 80)).unwrap();
    assert_eq!(bench.maps.listeners().unwrap()[0].hits, 3);
}

/// Changes user and drops every capability of this thread alone (glibc's calls change the whole process).
fn become_nobody() {
    const NOBODY: libc::c_long = 65_534;
    // SAFETY: system calls on credentials of the calling thread, no memory involved.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY), 0);
        assert_eq!(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY), 0);
    }
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    assert_eq!(u64::from_str_radix(effective.trim(), 16).unwrap(), 0);
}
