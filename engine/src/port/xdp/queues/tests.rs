//! The rings with a fake kernel on the other side: random work, crashes included, after which every frame must be
//! where it belongs and every byte must have arrived.

use super::*;
use crate::port::fixture::{Template, pieces_of, template};
use crate::port::headers::{Layout, be32};
use crate::port::xdp::ring::Raw;
use persona_stack::Gso;
use proptest::prelude::*;
use std::cell::UnsafeCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// One ring in ordinary memory, with the kernel's hands on it.
struct Ring<T> {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    entries: Box<[UnsafeCell<T>]>,
}

impl<T: Copy> Ring<T> {
    /// The counters begin near their end, so that they wrap.
    fn new(size: u32, zero: T) -> Self {
        let start = || AtomicU32::new(u32::MAX - 5);
        let entries = (0..size).map(|_| UnsafeCell::new(zero)).collect();
        Self { producer: start(), consumer: start(), flags: AtomicU32::new(1), entries }
    }

    fn raw(&self) -> Raw<T> {
        Raw {
            producer: &raw const self.producer,
            consumer: &raw const self.consumer,
            flags: &raw const self.flags,
            entries: UnsafeCell::raw_get(self.entries.as_ptr()),
            size: self.entries.len() as u32,
        }
    }

    fn len(&self) -> u32 {
        self.producer.load(Ordering::Acquire).wrapping_sub(self.consumer.load(Ordering::Acquire))
    }

    fn take(&self) -> Option<T> {
        let at = self.consumer.load(Ordering::Relaxed);
        (self.len() > 0).then(|| {
            // SAFETY: the test has one thread; the entry was published.
            let entry = unsafe { *self.entries[at as usize & (self.entries.len() - 1)].get() };
            self.consumer.store(at.wrapping_add(1), Ordering::Release);
            entry
        })
    }

    fn put(&self, entry: T) {
        assert!((self.len() as usize) < self.entries.len(), "the kernel's ring overflows");
        let at = self.producer.load(Ordering::Relaxed);
        // SAFETY: the test has one thread; the entry is the kernel's.
        unsafe { *self.entries[at as usize & (self.entries.len() - 1)].get() = entry };
        self.producer.store(at.wrapping_add(1), Ordering::Release);
    }

    /// What lies in the ring.
    fn contents(&self) -> Vec<T> {
        let from = self.consumer.load(Ordering::Relaxed);
        // SAFETY: as above.
        let entry =
            |offset| unsafe { *self.entries[from.wrapping_add(offset) as usize & (self.entries.len() - 1)].get() };
        (0..self.len()).map(entry).collect()
    }
}

/// The kernel: four rings, packet memory, and what it holds.
struct Fake {
    fill: Ring<u64>,
    completion: Ring<u64>,
    rx: Ring<XdpDesc>,
    tx: Ring<XdpDesc>,
    memory: Box<[UnsafeCell<u8>]>,
    geometry: Geometry,
    /// Frames taken from the transmit ring and not completed.
    in_flight: Mutex<Vec<u64>>,
    /// The packet whose descriptors are being taken; a batch may end within it.
    partial: Mutex<Vec<u8>>,
    /// Whole packets sent.
    sent: Mutex<Vec<Vec<u8>>>,
    /// Answers of the next sends, before they do anything.
    errors: Mutex<Vec<Errno>>,
    sends: AtomicU32,
    zero_copy: bool,
}

// SAFETY: the tests use it from one thread at a time.
unsafe impl Send for Fake {}
// SAFETY: as above.
unsafe impl Sync for Fake {}

const EMPTY: XdpDesc = XdpDesc { addr: 0, len: 0, options: XdpDescOptions::empty() };

impl Fake {
    fn new(geometry: Geometry) -> Arc<Self> {
        Arc::new(Self {
            fill: Ring::new(geometry.rx_frames, 0),
            completion: Ring::new(geometry.tx_frames, 0),
            rx: Ring::new(geometry.rx_frames, EMPTY),
            tx: Ring::new(geometry.tx_frames, EMPTY),
            memory: (0..geometry.bytes()).map(|_| UnsafeCell::new(0)).collect(),
            geometry,
            in_flight: Mutex::default(),
            partial: Mutex::default(),
            sent: Mutex::default(),
            errors: Mutex::default(),
            sends: AtomicU32::new(0),
            zero_copy: false,
        })
    }

    fn rings(&self) -> Rings {
        // SAFETY: the fake outlives the queues, which hold it.
        unsafe {
            Rings {
                fill: Producer::new(self.fill.raw()),
                completion: Consumer::new(self.completion.raw()),
                rx: Consumer::new(self.rx.raw()),
                tx: Producer::new(self.tx.raw()),
            }
        }
    }

    fn start(&self) -> *mut u8 {
        UnsafeCell::raw_get(self.memory.as_ptr())
    }

    /// Memory that is the kernel's at this moment.
    #[expect(clippy::mut_from_ref, reason = "the cells are shared with the port, as a UMEM is")]
    fn bytes(&self, address: u64, len: u32) -> &mut [u8] {
        assert!(address + u64::from(len) <= self.geometry.bytes() as u64);
        // SAFETY: within the memory; the frame is the kernel's at this moment.
        unsafe { core::slice::from_raw_parts_mut(self.start().add(address as usize), len as usize) }
    }

    /// A packet arrives; false if there were not enough fill entries.
    fn arrive(&self, packet: &[u8]) -> bool {
        let capacity = (self.geometry.frame_size - 256) as usize;
        if (self.fill.len() as usize) < packet.len().div_ceil(capacity) {
            return false;
        }
        let mut parts = packet.chunks(capacity).peekable();
        while let Some(part) = parts.next() {
            let address = self.fill.take().unwrap() + 256;
            self.bytes(address, part.len() as u32).copy_from_slice(part);
            let options = if parts.peek().is_some() { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() };
            self.rx.put(XdpDesc { addr: address, len: part.len() as u32, options });
        }
        true
    }

    /// Completes the in-flight frame `which` (modulo their number).
    fn complete(&self, which: usize) {
        let mut in_flight = self.in_flight.lock().unwrap();
        if !in_flight.is_empty() {
            let which = which % in_flight.len();
            self.completion.put(in_flight.swap_remove(which));
        }
    }

    fn complete_all(&self) {
        while !self.in_flight.lock().unwrap().is_empty() {
            self.complete(0);
        }
    }
}

impl Kernel for Arc<Fake> {
    fn send(&self) -> Result<(), Errno> {
        self.sends.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = self.errors.lock().unwrap().pop() {
            return Err(error);
        }
        let mut packet = self.partial.lock().unwrap();
        for _frame in 0..COPY_BATCH {
            let Some(descriptor) = self.tx.take() else { return Ok(()) };
            let bytes = self.bytes(descriptor.addr, descriptor.len);
            packet.extend_from_slice(bytes);
            // Whatever the port still reads from there would be noticed.
            bytes.fill(0xdd);
            self.in_flight.lock().unwrap().push(descriptor.addr);
            if !descriptor.options.contains(XdpDescOptions::XDP_PKT_CONTD) {
                self.sent.lock().unwrap().push(std::mem::take(&mut packet));
            }
        }
        if self.tx.len() > 0 { Err(Errno::AGAIN) } else { Ok(()) }
    }

    fn wake_receive(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn copies(&self) -> bool {
        !self.zero_copy
    }
}

fn geometry(frames: u32, metadata: u32) -> Geometry {
    Geometry {
        frame_size: 2048,
        rx_frames: frames,
        tx_frames: frames,
        metadata,
        multi_buffer: 1,
        interface: 1,
        queue: 0,
        mtu: 9000,
    }
}

fn queues(fake: &Arc<Fake>) -> Queues<Arc<Fake>> {
    // SAFETY: the fake, which owns the memory, lives in the queues.
    unsafe { Queues::new(fake.clone(), fake.rings(), fake.start(), fake.geometry, Treatment::default()) }
}

fn take_over(fake: &Arc<Fake>) -> Queues<Arc<Fake>> {
    // SAFETY: as above; the queues before were forgotten.
    unsafe { Queues::take_over(fake.clone(), fake.rings(), fake.start(), fake.geometry, Treatment::default()) }
}

/// Sends `len` bytes at stream position `at`, cut at `size`.
fn send(queues: &mut Queues<Arc<Fake>>, at: usize, len: usize, size: u16) -> Result<(), Full> {
    let header = template(&Template { sequence: at as u32, flags: 0x10, ..Template::default() });
    let payload: Vec<u8> = (at..at + len).map(|byte| (byte * 13) as u8).collect();
    let pieces = pieces_of(&payload, &[len / 2]);
    let checksum = TxChecksum::Partial { start: 34, offset: 16 };
    queues.transmit(&TxFrame {
        header: &header,
        payload: &pieces,
        checksum,
        gso: Some(Gso { size, repeats_ecn: false }),
    })
}

/// Every frame is in exactly one place, with nothing in the batch.
fn account(fake: &Fake, queues: &Queues<Arc<Fake>>) {
    let geometry = &fake.geometry;
    let mut tx: Vec<u32> = queues.free.clone();
    let addresses = fake.tx.contents().into_iter().map(|descriptor| descriptor.addr);
    let held = fake.in_flight.lock().unwrap().clone();
    tx.extend(
        addresses.chain(held).chain(fake.completion.contents()).map(|at| geometry.tx_index(at).expect("a tx frame")),
    );
    tx.extend(
        (0..)
            .zip(&queues.doubtful)
            .filter(|(index, doubtful)| **doubtful && !tx.contains(index))
            .map(|(i, _)| i)
            .collect::<Vec<_>>(),
    );
    assert_eq!(tx.len(), geometry.tx_frames as usize, "transmit frames");
    assert_eq!(tx.iter().collect::<BTreeSet<_>>().len(), tx.len(), "a transmit frame in two places");

    let received = fake.rx.contents().into_iter().map(|descriptor| descriptor.addr);
    let rx: Vec<u32> =
        received.chain(fake.fill.contents()).map(|at| geometry.rx_index(at).expect("an rx frame")).collect();
    assert_eq!(rx.len(), geometry.rx_frames as usize, "receive frames");
    assert_eq!(rx.iter().collect::<BTreeSet<_>>().len(), rx.len(), "a receive frame in two places");
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(usize),
    Receive(usize),
    Send(usize, u16),
    Flush,
    Complete(usize),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (14usize..9014).prop_map(Step::Arrive),
        3 => (1usize..20).prop_map(Step::Receive),
        4 => ((1usize..12_000), (500u16..8900)).prop_map(|(len, size)| Step::Send(len, size)),
        3 => Just(Step::Flush),
        3 => (0usize..64).prop_map(Step::Complete),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #[test]
    fn no_frame_is_lost_or_doubled_whatever_happens(
        steps in proptest::collection::vec(step(), 1..200),
        metadata in prop_oneof![Just(0u32), Just(16)],
    ) {
        let fake = Fake::new(geometry(32, metadata));
        let mut queues = queues(&fake);
        let (mut arrived, mut delivered) = (Vec::<Vec<u8>>::new(), Vec::<Vec<u8>>::new());
        let mut at = 0;
        let mut published = 0;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Arrive(len) => {
                    let packet: Vec<u8> = (0..len).map(|byte| (byte * 7 + number) as u8).collect();
                    if fake.arrive(&packet) {
                        arrived.push(packet);
                    }
                }
                Step::Receive(budget) => {
                    let taken = queues.receive(budget, &mut |frame| {
                        let tail = frame.tail.iter().copied();
                        delivered.push([frame.head].into_iter().chain(tail).flatten().copied().collect());
                    });
                    prop_assert!(taken <= budget);
                }
                Step::Send(len, size) => {
                    if send(&mut queues, at, len, size).is_ok() {
                        at += len;
                    }
                }
                Step::Flush => {
                    queues.flush().unwrap();
                    published = at;
                }
                Step::Complete(which) => fake.complete(which),
                Step::Crash => {
                    // What was not published is gone with the process: the connection would send it again.
                    std::mem::forget(std::mem::replace(&mut queues, take_over(&fake)));
                    at = published;
                }
            }
            if queues.rings.tx.waiting() == fake.tx.len() {
                account(&fake, &queues);
            }
        }
        // The end: everything goes out, comes back and is read.
        queues.flush().unwrap();
        fake.complete_all();
        queues.flush().unwrap();
        while queues.receive(64, &mut |frame| {
            let tail = frame.tail.iter().copied();
            delivered.push([frame.head].into_iter().chain(tail).flatten().copied().collect());
        }) > 0 {}
        account(&fake, &queues);
        prop_assert_eq!(queues.free.len(), 32);
        prop_assert_eq!(queues.outstanding(), 0);
        prop_assert_eq!(fake.fill.len(), 32);
        prop_assert_eq!(delivered, arrived);
        let mut stream = 0;
        for frame in fake.sent.lock().unwrap().iter() {
            let layout = Layout::of_ethernet(frame).unwrap();
            prop_assert_eq!(layout.end, frame.len());
            prop_assert_eq!(be32(frame, layout.l4 + 4) as usize, stream);
            let payload = &frame[layout.l4 + layout.tcp_header(frame).unwrap()..];
            for (offset, &byte) in payload.iter().enumerate() {
                prop_assert_eq!(byte, ((stream + offset) * 13) as u8);
            }
            stream += payload.len();
        }
        prop_assert_eq!(stream, at);
    }
}

#[test]
fn a_super_segment_is_taken_whole_or_refused() {
    let fake = Fake::new(geometry(32, 0));
    let mut queues = queues(&fake);
    send(&mut queues, 0, 20_000, 1000).unwrap();
    assert_eq!(send(&mut queues, 20_000, 13_000, 1000), Err(Full));
    assert_eq!((queues.counters().tx_frames, queues.counters().tx_full), (20, 1));
    // Refused: the shard must not sleep before frames came back.
    queues.flush().unwrap();
    assert!(queues.pending());
    fake.complete_all();
    send(&mut queues, 20_000, 13_000, 1000).unwrap();
    queues.flush().unwrap();
    fake.complete_all();
    assert!(!queues.pending(), "nothing is left to wait for");
    account(&fake, &queues);
}

#[test]
fn after_a_refusal_the_shard_may_sleep_once_all_came_back() {
    let fake = Fake::new(geometry(32, 0));
    let mut queues = queues(&fake);
    send(&mut queues, 0, 32_000, 1000).unwrap();
    assert_eq!(send(&mut queues, 0, 100, 1000), Err(Full));
    queues.flush().unwrap();
    assert!(queues.pending());
    fake.complete_all();
    assert!(queues.pending(), "said one last time");
    assert!(!queues.pending());
}

#[test]
fn copy_mode_kicks_until_everything_went_out_and_no_further() {
    let fake = Fake::new(geometry(128, 0));
    let mut queues = queues(&fake);
    for at in 0..100 {
        send(&mut queues, at, 1, 1000).unwrap();
    }
    queues.flush().unwrap();
    assert_eq!(fake.sent.lock().unwrap().len(), 100);
    assert_eq!(fake.sends.load(Ordering::Relaxed), 4, "32 frames per syscall");
    assert_eq!(queues.counters().kicks, 4);
    queues.flush().unwrap();
    assert_eq!(queues.counters().kicks, 4, "nothing to send, no syscall");
}

#[test]
fn errors_of_the_kick_neither_lose_frames_nor_loop() {
    let fake = Fake::new(geometry(64, 0));
    let mut queues = queues(&fake);
    send(&mut queues, 0, 40_000, 1000).unwrap();
    for error in [Errno::NOBUFS, Errno::AGAIN] {
        fake.errors.lock().unwrap().push(error);
        queues.flush().unwrap();
        assert_eq!(fake.sent.lock().unwrap().len(), 0, "{error}");
        assert!(queues.pending());
    }
    fake.errors.lock().unwrap().push(Errno::NETDOWN);
    assert_eq!(queues.flush().unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
    // The device's queue drops a frame: counted, and the others go out.
    fake.errors.lock().unwrap().push(Errno::BUSY);
    queues.flush().unwrap();
    queues.flush().unwrap();
    assert_eq!(fake.sent.lock().unwrap().len(), 40);
    assert_eq!(queues.counters().tx_dropped, 1);
    fake.complete_all();
    queues.flush().unwrap();
    assert_eq!(queues.outstanding(), 0);
}

#[test]
fn the_first_descriptor_carries_the_request_for_the_checksum() {
    let fake = Fake::new(geometry(32, 16));
    let mut queues = queues(&fake);
    send(&mut queues, 0, 5000, 8000).unwrap();
    queues.rings.tx.publish();
    let descriptors = fake.tx.contents();
    assert_eq!(descriptors.len(), 3);
    let options: Vec<u32> = descriptors.iter().map(|descriptor| descriptor.options.bits()).collect();
    assert_eq!(options, [1 | TX_METADATA, 1, 0]);
    let metadata = fake.bytes(descriptors[0].addr - 16, 16);
    assert_eq!(metadata[..8], METADATA_CHECKSUM.to_ne_bytes());
    assert_eq!(metadata[8..12], [34u16.to_ne_bytes(), 16u16.to_ne_bytes()].concat());
    assert!(Layout::of_ethernet(fake.bytes(descriptors[0].addr, descriptors[0].len)).is_some());
}

#[test]
fn what_the_wire_cannot_carry_is_dropped_and_counted() {
    let fake = Fake::new(Geometry { mtu: 1500, multi_buffer: 0, ..geometry(32, 0) });
    let mut queues = queues(&fake);
    send(&mut queues, 0, 5000, 4000).unwrap();
    assert_eq!((queues.counters().tx_dropped, queues.counters().tx_frames), (1, 0));
    account(&fake, &queues);
}

#[test]
fn a_crash_between_refilling_and_releasing_delivers_nothing_twice() {
    let fake = Fake::new(geometry(32, 0));
    let mut before = queues(&fake);
    for seed in 0..6 {
        assert!(fake.arrive(&[seed; 100]));
    }
    // What `receive` does with four of them, up to the point where it dies.
    let (frames, descriptors) = before.gather(4);
    assert_eq!((frames, descriptors), (4, 4));
    before.batch.deliver(&mut |_| {});
    for offset in 0..descriptors {
        let address = before.rings.rx.peek(offset).addr;
        before.rings.fill.push(fake.geometry.frame_of(address));
    }
    before.rings.fill.publish();
    std::mem::forget(before);

    let mut after = take_over(&fake);
    account(&fake, &after);
    let mut seen = Vec::new();
    after.receive(64, &mut |frame| seen.push(frame.head[0]));
    assert_eq!(seen, [4, 5]);
    account(&fake, &after);
}

#[test]
fn a_successor_waits_for_what_the_kernel_still_holds() {
    let fake = Fake::new(geometry(32, 0));
    let mut before = queues(&fake);
    send(&mut before, 0, 8000, 1000).unwrap();
    before.flush().unwrap();
    send(&mut before, 8000, 8000, 1000).unwrap();
    before.rings.tx.publish();
    std::mem::forget(before);

    // Eight frames are with the kernel and eight are published, not kicked: none of them may be written.
    let mut after = take_over(&fake);
    assert_eq!(send(&mut after, 16_000, 1000, 1000), Err(Full));
    after.flush().unwrap();
    assert_eq!(fake.sent.lock().unwrap().len(), 16);
    fake.complete_all();
    send(&mut after, 16_000, 16_000, 1000).unwrap();
    after.flush().unwrap();
    fake.complete_all();
    after.flush().unwrap();
    assert_eq!((after.outstanding(), fake.sent.lock().unwrap().len()), (0, 32));
}
