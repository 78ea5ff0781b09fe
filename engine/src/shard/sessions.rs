//! The sessions of one shard: for each, the records of the slots that this shard owns, and its listeners.

use super::options::Settings;
use super::record::Record;
use crate::session::Session;
use persona_channel::accept::AcceptWriter;
use persona_channel::attention::Marks;
use persona_channel::lane::LaneReader;
use persona_channel::layout::{LANES, SOCKETS};
use persona_channel::memory::{ListenerIndex, Shard, Slot, SocketRef};
use persona_stack::{ListenerId, Owner};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Marks an [`Owner`] as a listener.
const LISTENER: u64 = 1 << 31;

pub fn owner_of(session: u32, slot: Slot) -> Owner {
    Owner(u64::from(session) << 32 | u64::from(slot.get()))
}

pub fn owner_of_listener(session: u32, slot: Slot) -> Owner {
    Owner(owner_of(session, slot).0 | LISTENER)
}

/// What an [`Owner`] names. Owners come back from the stack as they were given, and are checked all the same.
pub fn parse(owner: Owner) -> Option<(u32, Slot)> {
    Some(((owner.0 >> 32) as u32, Slot::new((owner.0 & (LISTENER - 1)) as u32)?))
}

/// A listening socket as this shard has it; the slot's record lies with the slot's owner.
pub struct Listener {
    pub slot: Slot,
    pub generation: u32,
    /// The stack's listener, which several may share (SO_REUSEPORT).
    pub id: ListenerId,
    pub ring: ListenerIndex,
    pub accept: AcceptWriter,
    pub local: SocketAddr,
    pub backlog: u32,
    pub settings: Settings,
    /// The settings changed since the stack was told to listen: accepted connections are told theirs.
    pub retuned: bool,
    /// Connections were put into the accept ring since the waiters were last told.
    pub news: bool,
}

pub struct Attached {
    pub session: Arc<Session>,
    /// By slot: place in `records` plus one, 0 for none.
    places: Vec<u32>,
    records: Vec<Option<Record>>,
    vacant: Vec<u32>,
    /// Entered and taken away by [`Sessions`], which knows who shares a listener of the stack.
    pub(super) listeners: Vec<Listener>,
    pub lanes: [LaneReader; LANES],
    /// Iteration in which there was last something to do.
    pub last_active: u64,
    /// Its attention is not looked at: whoever raises it writes the event. See [`Sessions::park`].
    parked: bool,
    /// Its event cannot be watched: the shard has to look at its attention all the time.
    pub(super) unwatched: bool,
    /// Marks that an iteration took and did not get to.
    unfinished: Option<Marks>,
}

impl Attached {
    pub fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            places: vec![0; SOCKETS],
            records: Vec::new(),
            vacant: Vec::new(),
            listeners: Vec::new(),
            lanes: [LaneReader::new(); LANES],
            last_active: 0,
            parked: false,
            unwatched: false,
            unfinished: None,
        }
    }

    /// What `shard` has to look at: what an earlier iteration left, and what was marked since. One round at a time, so that a
    /// family that marks without end gets no more than its share of an iteration.
    pub fn collect(&mut self, shard: Shard) -> Option<Marks> {
        let attention = self.session.view().attention(shard);
        if !attention.is_raised() {
            return self.unfinished.take();
        }
        let mut marks = self.unfinished.take().unwrap_or_default();
        marks.merge(attention.collect());
        Some(marks)
    }

    /// Leaves marks to the next iteration.
    pub fn put_off(&mut self, marks: Marks) {
        self.unfinished = Some(marks);
    }

    pub fn record(&mut self, slot: Slot) -> Option<&mut Record> {
        let place = self.places[slot.index()].checked_sub(1)?;
        self.records[place as usize].as_mut()
    }

    /// The record and the shared half of its slot.
    pub fn socket(&mut self, slot: Slot) -> Option<(&mut Record, SocketRef<'_>)> {
        let place = self.places[slot.index()].checked_sub(1)?;
        let record = self.records[place as usize].as_mut()?;
        Some((record, self.session.view().socket(slot)))
    }

    pub fn insert(&mut self, record: Record) {
        let slot = record.slot;
        let place = match self.vacant.pop() {
            Some(place) => {
                self.records[place as usize] = Some(record);
                place
            }
            None => {
                self.records.push(Some(record));
                self.records.len() as u32 - 1
            }
        };
        self.places[slot.index()] = place + 1;
    }

    pub fn remove(&mut self, slot: Slot) -> Option<Record> {
        let place = std::mem::take(&mut self.places[slot.index()]).checked_sub(1)?;
        let record = self.records[place as usize].take();
        self.vacant.push(place);
        record
    }

    pub fn records(&mut self) -> impl Iterator<Item = &mut Record> {
        self.records.iter_mut().flatten()
    }

    pub fn listener(&mut self, slot: Slot) -> Option<&mut Listener> {
        self.listeners.iter_mut().find(|listener| listener.slot == slot)
    }
}

/// All sessions, by index.
#[derive(Default)]
pub struct Sessions {
    list: Vec<Option<Box<Attached>>>,
    /// Whose the stack's listeners are: session and slot. None is empty.
    sharers: HashMap<ListenerId, Vec<(u32, Slot)>>,
    /// Those that are not parked: what the loop looks at.
    active: Vec<u32>,
    /// How many of them have an event that is not watched.
    unwatched: usize,
}

impl Sessions {
    pub fn insert(&mut self, session: Arc<Session>) {
        let index = session.index as usize;
        if self.list.len() <= index {
            self.list.resize_with(index + 1, || None);
        }
        self.active.push(session.index);
        self.list[index] = Some(Box::new(Attached::new(session)));
    }

    pub fn remove(&mut self, session: u32) -> Option<Box<Attached>> {
        self.active.retain(|&active| active != session);
        let attached = self.list.get_mut(session as usize)?.take()?;
        attached.listeners.iter().for_each(|listener| self.leave(listener.id, (session, listener.slot)));
        self.unwatched -= usize::from(attached.unwatched);
        Some(attached)
    }

    /// The session's event will never wake the shard.
    pub fn cannot_watch(&mut self, session: u32) {
        if let Some(attached) = self.get(session)
            && !std::mem::replace(&mut attached.unwatched, true)
        {
            self.unwatched += 1;
        }
    }

    /// Whether the shard may sleep: every session can wake it.
    pub fn all_watched(&self) -> bool {
        self.unwatched == 0
    }

    /// Sessions whose attention is looked at.
    pub fn active(&self) -> &[u32] {
        &self.active
    }

    /// The session's attention is no longer looked at; the caller has arranged to be woken ([`Attention::park`]).
    ///
    /// [`Attention::park`]: persona_channel::layout::Attention::park
    pub fn park(&mut self, session: u32) {
        if let Some(attached) = self.get(session)
            && !attached.unwatched
            && !std::mem::replace(&mut attached.parked, true)
        {
            self.active.retain(|&active| active != session);
        }
    }

    /// Takes a parked session up again; `false` when it was not parked.
    pub fn unpark(&mut self, session: u32, iteration: u64) -> bool {
        let Some(attached) = self.get(session) else { return false };
        attached.last_active = iteration;
        let was_parked = std::mem::take(&mut attached.parked);
        if was_parked {
            self.active.push(session);
        }
        was_parked
    }

    pub fn get(&mut self, session: u32) -> Option<&mut Attached> {
        self.list.get_mut(session as usize)?.as_deref_mut()
    }

    /// The stack's listener at an address.
    pub fn listening(&mut self, local: SocketAddr) -> Option<ListenerId> {
        self.iter().flat_map(|attached| &attached.listeners).find(|listener| listener.local == local).map(|one| one.id)
    }

    /// Enters a listener; `false` when there is no such session.
    pub fn add_listener(&mut self, session: u32, listener: Listener) -> bool {
        let (id, slot) = (listener.id, listener.slot);
        let Some(attached) = self.get(session) else { return false };
        attached.listeners.push(listener);
        self.sharers.entry(id).or_default().push((session, slot));
        true
    }

    /// Takes away the listener of one life of a slot.
    pub fn take_listener(&mut self, session: u32, slot: Slot, generation: u32) -> Option<Listener> {
        let listeners = &mut self.get(session)?.listeners;
        let place = listeners.iter().position(|listener| listener.slot == slot && listener.generation == generation)?;
        let listener = listeners.swap_remove(place);
        self.leave(listener.id, (session, slot));
        Some(listener)
    }

    fn leave(&mut self, id: ListenerId, sharer: (u32, Slot)) {
        let Some(sharers) = self.sharers.get_mut(&id) else { return };
        sharers.retain(|known| *known != sharer);
        if sharers.is_empty() {
            self.sharers.remove(&id);
        }
    }

    /// The sockets that share the stack's listener `id`: session and slot. Most are alone.
    pub fn sharers(&self, id: ListenerId) -> &[(u32, Slot)] {
        self.sharers.get(&id).map_or(&[], Vec::as_slice)
    }

    /// One past the highest index in use.
    pub fn bound(&self) -> u32 {
        self.list.len() as u32
    }

    pub fn iter(&mut self) -> impl Iterator<Item = &mut Attached> {
        self.list.iter_mut().filter_map(Option::as_deref_mut)
    }

    pub fn socket(&mut self, owner: Owner) -> Option<(&mut Record, SocketRef<'_>)> {
        let (session, slot) = parse(owner)?;
        self.get(session)?.socket(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::options::Limits;

    #[test]
    fn records_are_found_by_owner_until_they_are_removed() {
        let mut sessions = Sessions::default();
        sessions.insert(Arc::new(crate::session::tests::session(1)));
        let settings = Settings::new(Limits {
            send_buffer: 1 << 20,
            receive_buffer: 1 << 20,
            backlog: 16,
            defaults: persona_stack::SocketOptions::default(),
        });
        let slots: Vec<Slot> = [5, 9, 4_000].into_iter().filter_map(Slot::new).collect();
        for (generation, &slot) in slots.iter().enumerate() {
            sessions.get(3).unwrap().insert(Record::new(slot, generation as u32, settings));
        }
        for (generation, &slot) in slots.iter().enumerate() {
            let (record, socket) = sessions.socket(owner_of(3, slot)).unwrap();
            assert_eq!((record.slot, record.generation, socket.slot), (slot, generation as u32, slot));
        }
        assert!(sessions.get(3).unwrap().remove(slots[1]).is_some());
        assert!(sessions.socket(owner_of(3, slots[1])).is_none());
        assert!(sessions.socket(owner_of(2, slots[0])).is_none());
        assert_eq!(sessions.get(3).unwrap().records().count(), 2);
        assert_eq!(sessions.active(), [3]);
        sessions.park(3);
        sessions.park(3);
        assert!(sessions.active().is_empty() && sessions.unpark(3, 7) && !sessions.unpark(3, 8));
        assert_eq!(sessions.active(), [3]);
        assert_eq!(parse(owner_of_listener(3, slots[2])), Some((3, slots[2])));
        assert!(sessions.all_watched());
        sessions.cannot_watch(3);
        sessions.cannot_watch(3);
        sessions.park(3);
        assert!(sessions.active() == [3] && !sessions.all_watched(), "nothing but looking at it would serve it");
        sessions.remove(3);
        assert!(sessions.all_watched());
    }

    #[test]
    fn marks_that_were_put_off_and_new_ones_are_one_round() {
        const VISIT: usize = 100;
        let session = Arc::new(crate::session::tests::session(1));
        let shard = Shard::new(0).unwrap();
        let attention = session.view().attention(shard);
        let mut attached = Attached::new(Arc::clone(&session));
        assert!(attached.collect(shard).is_none());
        let mark_all = || Slot::all().for_each(|slot| assert!(!attention.mark_socket(slot)));
        let mut seen = vec![0; SOCKETS];
        mark_all();
        for visit in 0..2 * SOCKETS.div_ceil(VISIT) {
            let Some(mut marks) = attached.collect(shard) else { break };
            let found = std::iter::from_fn(|| marks.next_socket(attention)).take(VISIT);
            found.for_each(|slot| seen[slot.index()] += 1);
            if !marks.is_empty() {
                attached.put_off(marks);
            }
            if visit == 0 {
                mark_all();
            }
        }
        let (once, twice) =
            (seen.iter().filter(|&&times| times == 1).count(), seen.iter().filter(|&&times| times == 2).count());
        // What lies in words not looked at yet is seen once, however often it is marked; what was looked at counts anew.
        assert_eq!(once + twice, SOCKETS, "nothing is lost");
        assert!(twice <= VISIT.next_multiple_of(64), "{twice} sockets were looked at again");
    }
}
