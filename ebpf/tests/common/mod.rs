//! A loaded object and frames to run through its programs (BPF_PROG_TEST_RUN). Needs root.

#![allow(dead_code)]

pub mod frames;

use aya::programs::{SchedClassifier, SocketFilter, TestRun, TestRunOptions, Xdp};
use frames::*;
use persona_ebpf::{AddressMode, Counters, FlowKey, ListenerKey, Maps, Object, Program, Reason, Sizes};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_REDIRECT: u32 = 4;
pub const TC_NEXT: u32 = u32::MAX;
pub const TC_DROP: u32 = 2;

pub fn sizes() -> Sizes {
    Sizes { flows: 64, listeners: 16, addresses: 16, queues: 4 }
}

pub struct Bench {
    pub object: Object,
    pub maps: Maps,
}

impl Bench {
    pub fn new() -> Self {
        Self::for_vlan(0)
    }

    pub fn for_vlan(vlan: u16) -> Self {
        let mut object = Object::load_for_vlan(&sizes(), vlan).unwrap();
        for program in Program::ALL {
            object.program(program).unwrap();
        }
        let maps = object.maps().unwrap();
        Self { object, maps }
    }

    /// With the flow of the tests, in both families.
    pub fn with_flow() -> Self {
        let bench = Self::new();
        bench.maps.insert_flow(flow4(), 0).unwrap();
        bench.maps.insert_flow(flow6(), 1).unwrap();
        bench
    }

    /// With our addresses in this mode.
    pub fn with_addresses(mode: AddressMode) -> Self {
        let bench = Self::new();
        bench.maps.insert_address(US4.into(), mode).unwrap();
        bench.maps.insert_address(US6.into(), mode).unwrap();
        bench
    }

    /// Runs one program over a frame: what it returned, and the frame afterwards.
    pub fn run(&mut self, program: Program, frame: &[u8]) -> (u32, Vec<u8>) {
        self.run_with(program, frame, None)
    }

    /// The same with an xdp_md or __sk_buff.
    pub fn run_with(&mut self, program: Program, frame: &[u8], context: Option<&[u8]>) -> (u32, Vec<u8>) {
        // For a socket filter the kernel's test harness takes the link header away, which a packet socket's filter sees.
        let padded = [&frame[..14], frame].concat();
        let input = if program == Program::Socket { &padded[..] } else { frame };
        let mut output = vec![0; input.len() + 256];
        let options = TestRunOptions {
            data_in: Some(input),
            data_out: Some(&mut output),
            ctx_in: context,
            ..TestRunOptions::new()
        };
        let loaded = self.object.aya().program_mut(program.name()).unwrap();
        let result = match program {
            Program::Xdp | Program::XdpFrags => <&mut Xdp>::try_from(loaded).unwrap().test_run(options),
            Program::Tc | Program::TcAlive => <&mut SchedClassifier>::try_from(loaded).unwrap().test_run(options),
            Program::Socket => <&mut SocketFilter>::try_from(loaded).unwrap().test_run(options),
        }
        .unwrap_or_else(|error| panic!("{program:?} over {} bytes: {error}", frame.len()));
        output.truncate(result.data_size_out as usize);
        (result.return_value, output)
    }

    pub fn counters(&self) -> Counters {
        self.maps.counters().unwrap()
    }

    /// Runs the frame through all programs and demands of each the action that belongs to `reason`, one count of
    /// `reason` and of nothing else, and a frame that was not touched.
    #[track_caller]
    pub fn expect(&mut self, what: &str, frame: &[u8], reason: Reason) {
        let diverted = !matches!(
            reason,
            Reason::Passed | Reason::PassedTruncated | Reason::PassedMalformed | Reason::PassedReleased
        );
        for program in [Program::Xdp, Program::XdpFrags, Program::Tc] {
            let before = self.counters();
            let (action, after) = self.run(program, frame);
            assert_eq!(after, frame, "{what}: {program:?} changed the frame");

            let xdp = matches!(program, Program::Xdp | Program::XdpFrags);
            let wanted = match (xdp, diverted) {
                (true, true) => XDP_DROP,
                (true, false) => XDP_PASS,
                (false, true) => TC_DROP,
                (false, false) => TC_NEXT,
            };
            assert_eq!(action, wanted, "{what}: action of {program:?}");

            // No AF_XDP socket is there: what an XDP program would divert is dropped for that reason.
            let by_xdp = xdp && diverted && !matches!(reason, Reason::DroppedFragment | Reason::DroppedHeld);
            let counted = if by_xdp { Reason::DroppedNoSocket } else { reason };
            let delta = self.counters().since(&before);
            for (reason, frames) in delta.iter() {
                assert_eq!(frames, u64::from(reason == counted), "{what}: {program:?} counts {}", reason.name());
            }
        }

        let before = self.counters();
        let (kept, _) = self.run(Program::Socket, frame);
        let wanted = diverted && !matches!(reason, Reason::DroppedFragment | Reason::DroppedHeld);
        assert_eq!(kept != 0, wanted, "{what}: kept by the socket filter: {kept}");
        assert_eq!(self.counters(), before, "{what}: the socket filter counts, and tc counts the frame again");
    }
}

pub fn flow4() -> FlowKey {
    FlowKey::new(SocketAddr::new(US4.into(), US_PORT), SocketAddr::new(PEER4.into(), PEER_PORT))
}

pub fn flow6() -> FlowKey {
    FlowKey::new(SocketAddr::new(US6.into(), US_PORT), SocketAddr::new(PEER6.into(), PEER_PORT))
}

pub fn listener(address: impl Into<IpAddr>, port: u16) -> ListenerKey {
    ListenerKey::new(SocketAddr::new(address.into(), port))
}

/// Runs `test` in a network namespace of its own with a veth pair `us` and `peer`, both up. The namespace belongs to the
/// thread and goes with it.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        ip("link add us type veth peer name peer");
        ip("link set us up");
        ip("link set peer up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether `holds` within a few seconds. A descriptor that we closed may be open a moment longer in a child that another
/// test has forked and that has not yet called exec.
pub fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    (0..500).any(|attempt| {
        if attempt != 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        holds()
    })
}
