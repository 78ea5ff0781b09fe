//! Requests and dumps over rtnetlink, one at a time.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// How often a dump is repeated because the table changed under it.
const ATTEMPTS: usize = 8;
/// The kernel sets this flag in a dump whose table changed meanwhile (NLM_F_DUMP_INTR).
const NLM_F_DUMP_INTERRUPTED: u16 = 16;
/// Size of a netlink message's header, and its alignment.
const HEADER: usize = 16;
const ALIGN: usize = 4;

pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for one object.
    pub fn get(&mut self, question: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.send(question, NLM_F_REQUEST)?;
        for message in self.receive()? {
            match message.payload {
                NetlinkPayload::InnerMessage(answer) => return Ok(answer),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel gave no answer"))
    }

    /// Changes something; `flags` beyond request and acknowledgement.
    pub fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        for message in self.receive()? {
            if let NetlinkPayload::Error(error) = message.payload {
                return if error.code.is_none() { Ok(()) } else { Err(error.to_io()) };
            }
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel gave no acknowledgement"))
    }

    /// All objects of a table, consistent: a table that changes meanwhile is read again.
    pub fn dump(&mut self, question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..ATTEMPTS {
            if let Some(answers) = self.dump_once(question.clone())? {
                return Ok(answers);
            }
        }
        Err(io::Error::other("the table changes faster than it can be read"))
    }

    /// `None`: the table changed.
    fn dump_once(&mut self, question: RouteNetlinkMessage) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        self.send(question, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut answers = Vec::new();
        let mut consistent = true;
        loop {
            for message in self.receive()? {
                consistent &= message.header.flags & NLM_F_DUMP_INTERRUPTED == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(consistent.then_some(answers)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let (bytes, _) = self.socket.recv_from_full()?;
        Ok(messages(&bytes))
    }
}

/// The messages of a datagram. What this build cannot read (a newer kernel's attributes) is left out.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut messages = Vec::new();
    while let Some(length) = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else { break };
        match NetlinkMessage::deserialize(message) {
            Ok(message) => messages.push(message),
            Err(error) => tracing::debug!("netlink message left out: {error}"),
        }
        bytes = bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    messages
}
