//! Segments that belong to no control block: answers to strangers, SYN,ACK of a half-open request, ACK of TIME-WAIT.

use super::segment::Arrival;
use crate::api::{AddressMode, Host};
use crate::counters::Counter;
use crate::env::{Env, Unsent};
use crate::flow::Flow;
use crate::frame::{Payload, PortId, TxChecksum};
use crate::ip::{LINK_ROOM, Outgoing};
use crate::time::Instant;
use crate::wire::{Ipv4Repr, SeqNumber, TcpFlags, TcpOptions, TcpRepr, checksum, protocol};

/// A segment without payload and without a connection.
pub(crate) struct Bare<'a> {
    pub(crate) flow: &'a Flow,
    pub(crate) seq: SeqNumber,
    pub(crate) ack: SeqNumber,
    pub(crate) flags: TcpFlags,
    pub(crate) window: u16,
    pub(crate) options: TcpOptions,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
}

/// Sends it. It is not repeated when it cannot be sent: whoever needs it asks again.
pub(crate) fn send<H: Host>(env: &mut Env<'_>, host: &mut H, now: Instant, bare: &Bare<'_>) -> Result<(), Unsent> {
    let flow = bare.flow;
    let path = env.route(flow.remote.into(), Some(flow.local.into())).ok_or(Unsent::NoRoute)?;
    let (local, remote) = flow.v4();
    let repr = TcpRepr {
        source_port: flow.local_port,
        destination_port: flow.remote_port,
        seq: bare.seq,
        ack: bare.ack,
        flags: bare.flags,
        window: bare.window,
        urgent: 0,
        options: bare.options,
    };
    let mut header = [0; LINK_ROOM + Ipv4Repr::LEN + TcpRepr::MAX_LEN];
    let len = repr.header_len();
    Ipv4Repr {
        source: local,
        destination: remote,
        protocol: protocol::TCP,
        ttl: bare.ttl,
        tos: bare.tos,
        identification: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: len as u16,
    }
    .emit(&mut header[LINK_ROOM..]);
    let pseudo = checksum::pseudo_v4(local, remote, protocol::TCP, len as u32);
    repr.emit_complete(&mut header[LINK_ROOM + Ipv4Repr::LEN..], pseudo);
    let frame = Outgoing {
        header: &mut header[..LINK_ROOM + Ipv4Repr::LEN + len],
        payload: Payload::None,
        checksum: TxChecksum::Complete,
        gso: None,
    };
    if env.net.output(now, path.port, path.next_hop.into(), frame, host).is_err() {
        env.count(Counter::PersonaTxBusy);
        return Err(Unsent::Busy);
    }
    env.count(Counter::TcpOutSegs);
    Ok(())
}

/// RFC 9293 section 3.10.7.1: the answer to a segment that nobody here wants. In shared mode the host gives it.
pub(crate) fn reset<H: Host>(
    env: &mut Env<'_>,
    host: &mut H,
    now: Instant,
    flow: &Flow,
    port: u8,
    arrival: &Arrival<'_>,
) {
    if arrival.flags.rst() {
        return;
    }
    let own = env.net.interfaces.get(PortId(port)).is_some_and(|interface| interface.mode() == AddressMode::Own);
    if !own {
        return;
    }
    let (seq, ack, flags) = if arrival.flags.ack() {
        (arrival.ack, SeqNumber(0), TcpFlags::RST)
    } else {
        (SeqNumber(0), arrival.seq + arrival.sequence_len(), TcpFlags::RST | TcpFlags::ACK)
    };
    let options = TcpOptions::default();
    let ttl = env.globals.sysctls.ttl();
    let bare = Bare { flow, seq, ack, flags, window: 0, options, ttl, tos: 0 };
    if send(env, host, now, &bare).is_ok() {
        env.count(Counter::TcpOutRsts);
    }
}
