//! One hand-made TCP connection to a kernel, over any [`Ring`]: as much of RFC 9293 as a transfer in one direction needs
//! when hardly anything is lost. No congestion control, no SACK, no timestamps, no reassembly.

use super::segment::{ACK, Arrived, Ends, FIN, Fields, PSH, RST, SYN, Template};
use super::{Ring, SEGMENT};
use anyhow::{Context, Result, bail};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// What stays unacknowledged for so long is sent again.
const REPEAT: Duration = Duration::from_millis(200);
/// A connection on which nothing moves for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Shift of our window.
const SCALE: u8 = 7;
/// Bytes that the peer may have under way: less than any ring here holds in segments.
const WINDOW: u32 = 1024 * SEGMENT as u32;
/// Segments received before they are acknowledged, at most: while more are waiting there is no hurry.
const ACKNOWLEDGE: u32 = 32;
/// Frames queued before the kernel is made to look.
const BURST: usize = 64;
/// Turns without news that end with a yield; after them the loop sleeps in poll().
const SPINS: u32 = 20_000;
/// Of the beginning of the peer's stream, bytes that are kept.
const KEPT: usize = 16;

/// The connection, apart from the ring.
struct State {
    ends: Ends,
    snd_una: u32,
    snd_nxt: u32,
    /// The furthest ever sent.
    snd_max: u32,
    /// What was sent when loss was last noticed: duplicates below it are of the same loss.
    recover: u32,
    duplicates: u32,
    /// Frames sent a second time.
    again: u64,
    window: u32,
    scale: u32,
    /// Our FIN's place in the sequence, once the stream has an end.
    fin: Option<u32>,
    rcv_nxt: u32,
    received: u64,
    kept: Vec<u8>,
    /// Segments not acknowledged yet.
    pending: u32,
    acknowledge_now: bool,
    established: bool,
    peer_finished: bool,
    reset: bool,
}

/// A connection over a ring.
pub struct Connection<R> {
    ring: R,
    state: State,
    template: Template,
    idle: u32,
    /// When something last moved, and how far everything was then.
    moved: Instant,
    progress: (u32, u32, u64),
    /// When the timer last acted.
    repeated: Instant,
}

/// What a transfer came to.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    pub bytes: u64,
    /// Frames that had to be sent again.
    pub again: u64,
    /// Frames that the ring had no room for.
    pub dropped: u64,
}

impl<R: Ring> Connection<R> {
    /// Three-way handshake.
    pub fn open(ring: R, ends: Ends) -> Result<Self> {
        let template = Template::new(&ends, ring.completes_checksums());
        let state = State::new(ends);
        let progress = (state.snd_una, state.rcv_nxt, 0);
        let now = Instant::now();
        let mut connection = Self { ring, state, template, idle: 0, moved: now, progress, repeated: now };
        let [high, low] = (SEGMENT as u16).to_be_bytes();
        // Maximum segment size, window scale, and a filler.
        connection.send_own(SYN, &[2, 4, high, low, 3, 3, SCALE, 1], &[])?;
        connection.until("handshake", |state| state.established)?;
        Ok(connection)
    }

    /// As `load send`: its request, filler for as long as `time`, the end; then the count of the server that drained it.
    pub fn send_for(mut self, time: Duration) -> Result<Moved> {
        self.request(b"s")?;
        let started = Instant::now();
        while started.elapsed() < time {
            self.turn(true)?;
        }
        self.state.fin = Some(self.state.snd_max);
        while !self.state.peer_finished || self.state.snd_una != self.state.snd_max {
            self.turn(true)?;
        }
        let count = self.state.kept.get(..8).context("the peer's kernel closed before it said how much came")?;
        let bytes = u64::from_le_bytes(count.try_into().expect("eight bytes"));
        self.close(bytes)
    }

    /// As `load receive`: its request, then everything to the end of the peer's stream.
    pub fn receive_for(mut self, time: Duration) -> Result<Moved> {
        let mut request = [b'r'; 9];
        request[1..].copy_from_slice(&(time.as_millis() as u64).to_le_bytes());
        self.request(&request)?;
        while !self.state.peer_finished {
            self.turn(false)?;
        }
        self.state.fin = Some(self.state.snd_max);
        self.turn(true)?;
        let bytes = self.state.received;
        self.close(bytes)
    }

    /// The last acknowledgement leaves, and the figures stay.
    fn close(mut self, bytes: u64) -> Result<Moved> {
        while self.state.snd_una != self.state.snd_max {
            self.turn(true).context("waiting for the acknowledgement of the end")?;
        }
        self.acknowledge();
        self.ring.kick().context("kick")?;
        Ok(Moved { bytes, again: self.state.again, dropped: self.ring.dropped() })
    }

    /// A few bytes of our own, delivered.
    fn request(&mut self, bytes: &[u8]) -> Result<()> {
        self.send_own(ACK | PSH, &[], bytes)?;
        self.until("acknowledgement of the request", |state| state.snd_una == state.snd_max)
    }

    /// A segment whose payload is not filler. Nothing else is under way, so that it needs no place to be sent again
    /// from; the ring and the peer are idle and do not lose it.
    fn send_own(&mut self, flags: u8, options: &[u8], payload: &[u8]) -> Result<()> {
        let fields = self.state.fields(flags);
        let frame = self.template.with(&fields, options, payload);
        if !self.ring.send(&frame, 0) {
            bail!("an idle ring has no room for one frame");
        }
        let len = payload.len() as u32 + u32::from(flags & SYN != 0);
        self.state.snd_nxt = self.state.snd_nxt.wrapping_add(len);
        self.state.snd_max = self.state.snd_nxt;
        self.ring.kick().context("kick")
    }

    fn until(&mut self, what: &str, done: impl Fn(&State) -> bool) -> Result<()> {
        while !done(&self.state) {
            self.turn(false).with_context(|| format!("waiting for the {what}"))?;
        }
        Ok(())
    }

    /// Takes what came, sends what may be sent (filler and the end only with `sending`), acknowledges.
    fn turn(&mut self, sending: bool) -> Result<()> {
        let Self { ring, state, .. } = self;
        let frames = ring.receive(&mut |frame| state.on_frame(frame));
        if state.reset {
            bail!("the peer's kernel reset the connection");
        }
        let mut queued = sending && self.push();
        let state = &self.state;
        if state.acknowledge_now || state.pending >= ACKNOWLEDGE || (frames == 0 && state.pending > 0) {
            queued |= self.acknowledge();
        }
        if queued {
            self.ring.kick().context("kick")?;
        }
        if frames > 0 || queued {
            self.idle = 0;
        } else {
            self.rest()?;
        }
        self.watch()
    }

    /// Queues filler as far as the peer's window and the ring allow. True if anything was queued.
    fn push(&mut self) -> bool {
        let longest = self.ring.longest();
        for queued in 0..BURST {
            let state = &mut self.state;
            let flight = state.snd_nxt.wrapping_sub(state.snd_una);
            let room = state.window.saturating_sub(flight) as usize;
            let left = state.fin.map_or(usize::MAX, |fin| fin.wrapping_sub(state.snd_nxt) as usize);
            let at_end = state.fin == Some(state.snd_nxt);
            let len = longest.min(room).min(left);
            // A short segment only when it is the last one, or when the window is small and nothing is under way.
            let worth = len == longest || len == left || (len > 0 && flight == 0);
            if state.fin.is_some_and(|fin| state.snd_nxt == fin.wrapping_add(1)) || !(at_end || worth) {
                return queued > 0;
            }
            let fields = state.fields(if at_end { ACK | FIN } else { ACK });
            if !self.ring.send(self.template.plain(&fields, len), len) {
                // The ring is full of what the kernel did not take: it has to look again.
                return true;
            }
            let next = state.snd_nxt.wrapping_add(len as u32 + u32::from(at_end));
            if after(next, state.snd_max) {
                state.snd_max = next;
            } else {
                state.again += 1;
            }
            state.snd_nxt = next;
            state.acknowledged();
        }
        true
    }

    /// Queues an acknowledgement. False: no room, it stays due.
    fn acknowledge(&mut self) -> bool {
        let fields = self.state.fields(ACK);
        let queued = self.ring.send(self.template.plain(&fields, 0), 0);
        if queued {
            self.state.acknowledged();
        }
        queued
    }

    /// Leaves the processor to others; after a while, until frames come.
    fn rest(&mut self) -> Result<()> {
        self.idle += 1;
        if self.idle < SPINS {
            std::thread::yield_now();
            return Ok(());
        }
        let mut poll = libc::pollfd { fd: self.ring.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd.
        if unsafe { libc::poll(&raw mut poll, 1, 1) } < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error).context("poll");
            }
        }
        Ok(())
    }

    /// The timers: sends again what nobody acknowledges, and gives up in the end.
    fn watch(&mut self) -> Result<()> {
        let state = &mut self.state;
        let progress = (state.snd_una, state.rcv_nxt, state.received);
        if progress != self.progress {
            (self.progress, self.moved) = (progress, Instant::now());
            return Ok(());
        }
        let still = self.moved.elapsed();
        if still > PATIENCE {
            bail!(
                "nothing moved for {PATIENCE:?}: una {} nxt {} max {} window {} received {}",
                state.snd_una,
                state.snd_nxt,
                state.snd_max,
                state.window,
                state.received
            );
        }
        if still > REPEAT && self.repeated.elapsed() > REPEAT {
            self.repeated = Instant::now();
            if state.snd_una != state.snd_nxt {
                state.go_back();
            } else if state.window == 0 {
                // What lies before the window makes the peer say what the window is.
                let fields = Fields { seq: state.snd_una.wrapping_sub(1), ..state.fields(ACK) };
                self.ring.send(self.template.plain(&fields, 0), 0);
                self.ring.kick().context("kick")?;
            }
        }
        Ok(())
    }
}

impl State {
    fn new(ends: Ends) -> Self {
        // Shortly before the sequence numbers wrap, so that each run crosses the border.
        let first = 0xffff_0000;
        Self {
            ends,
            snd_una: first,
            snd_nxt: first,
            snd_max: first,
            recover: first,
            duplicates: 0,
            again: 0,
            window: 0,
            scale: 0,
            fin: None,
            rcv_nxt: 0,
            received: 0,
            kept: Vec::with_capacity(KEPT),
            pending: 0,
            acknowledge_now: false,
            established: false,
            peer_finished: false,
            reset: false,
        }
    }

    fn fields(&self, flags: u8) -> Fields {
        // The window of a SYN is not scaled.
        let window = if flags & SYN != 0 { u16::MAX } else { (WINDOW >> SCALE) as u16 };
        let ack = if flags & ACK != 0 { self.rcv_nxt } else { 0 };
        Fields { seq: self.snd_nxt, ack, flags, window }
    }

    fn acknowledged(&mut self) {
        (self.pending, self.acknowledge_now) = (0, false);
    }

    fn on_frame(&mut self, frame: &[u8]) {
        let Some(arrived) = Arrived::parse(frame, &self.ends) else { return };
        let Fields { seq, ack, flags, window } = arrived.fields;
        if flags & RST != 0 {
            self.reset = true;
        } else if flags & SYN != 0 {
            // The answer to our SYN; once more if our acknowledgement was lost.
            if !self.established {
                (self.snd_una, self.snd_nxt, self.rcv_nxt) = (ack, ack, seq.wrapping_add(1));
                (self.scale, self.window) = (arrived.window_scale(), window.into());
            }
            (self.established, self.acknowledge_now) = (true, true);
        } else {
            self.on_acknowledgement(ack, u32::from(window) << self.scale, arrived.payload.is_empty());
            self.on_payload(seq, arrived.payload, flags & FIN != 0);
        }
    }

    fn on_acknowledgement(&mut self, ack: u32, window: u32, pure: bool) {
        if after(ack, self.snd_una) && !after(ack, self.snd_max) {
            self.snd_una = ack;
            self.duplicates = 0;
            if after(ack, self.snd_nxt) {
                self.snd_nxt = ack;
            }
        } else if ack == self.snd_una && pure && window == self.window && ack != self.snd_max {
            // RFC 5681 section 2: what counts as a duplicate.
            self.duplicates += 1;
            if self.duplicates == 3 && !after(self.recover, ack) {
                self.go_back();
            }
        }
        self.window = window;
    }

    /// Everything from the first unacknowledged byte on is sent again.
    fn go_back(&mut self) {
        (self.snd_nxt, self.recover, self.duplicates) = (self.snd_una, self.snd_max, 0);
    }

    fn on_payload(&mut self, seq: u32, payload: &[u8], fin: bool) {
        if payload.is_empty() && !fin {
            return;
        }
        // Anything but what is awaited next makes an acknowledgement at once, which tells the peer what is missing.
        let known = self.rcv_nxt.wrapping_sub(seq) as usize;
        if known > payload.len() {
            self.acknowledge_now = true;
            return;
        }
        let fresh = &payload[known..];
        let keep = fresh.len().min(KEPT - self.kept.len());
        self.kept.extend_from_slice(&fresh[..keep]);
        self.rcv_nxt = self.rcv_nxt.wrapping_add(fresh.len() as u32);
        self.received += fresh.len() as u64;
        self.pending += 1;
        if fin && !self.peer_finished {
            self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
            (self.peer_finished, self.acknowledge_now) = (true, true);
        }
    }
}

/// RFC 9293 section 3.4: `a` lies after `b`.
fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

#[cfg(test)]
mod tests;
