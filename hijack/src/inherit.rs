//! Sockets across exec. An image that will have the library takes over the sockets it finds open: the environment
//! variable PERSONA_SOCKETS says which session they belong to and which descriptor is which slot. The new image joins
//! the session with its token and believes an entry only if the descriptor is the very anchor it names (its inode).
//!
//! Form, all numbers hexadecimal: `session.token.token;descriptor.inode.slot.generation;...`.

use core::ffi::{CStr, c_char, c_int};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use persona_channel::layout::state_bits;

use crate::attach;
use crate::handle::Handle;
use crate::table::{self, Entry, SocketId};
use crate::{environment, sys};

const VARIABLE: &CStr = c"PERSONA_SOCKETS";
const LIBRARY: &[u8] = b"libpersona.so";
/// Variables that tell the library which engine to find.
const KEPT: [&CStr; 5] =
    [c"PERSONA_NAME", c"PERSONA_RUN_DIR", c"PERSONA_STRICT", c"PERSONA_DEBUG", c"LKL_HIJACK_CONFIG_FILE"];

pub type Strings = *const *const c_char;

/// Whether this process has looked for inherited sockets: 0 not yet, 1 it is doing so, 2 done.
static LOOKED: AtomicU32 = AtomicU32::new(0);

/// Takes over what the environment names, once.
#[inline]
pub fn settle() {
    if LOOKED.load(Ordering::Relaxed) == 0 {
        take_over();
    }
}

#[cold]
fn take_over() {
    if LOOKED.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return;
    }
    environment::with_ours(VARIABLE, adopt);
    LOOKED.store(2, Ordering::Release);
}

fn adopt(text: &[u8]) {
    let mut items = text.split(|byte| *byte == b';');
    let Some([session, one, two]) = items.next().and_then(numbers::<3>) else { return };
    // No anchor left open: nothing to join for.
    let is_ours = |item: &[u64; 4]| sys::inode(item[0] as c_int) == Ok(item[1]);
    let mut entries = items.filter_map(numbers::<4>).filter(is_ours).peekable();
    if entries.peek().is_none() {
        return;
    }
    let Ok(view) = attach::join(session, [one, two]) else { return };
    for [fd, _, slot, generation] in entries {
        let id = SocketId { session: view.index(), slot: slot as u32, generation: generation as u32 };
        if Handle::new(fd as c_int, id).is_some_and(|handle| handle.socket.generation() == id.generation) {
            table::set(fd as c_int, Entry::Socket(id));
        }
    }
}

/// The numbers of an item, if there are exactly so many.
fn numbers<const N: usize>(item: &[u8]) -> Option<[u64; N]> {
    let mut words = item.split(|byte| *byte == b'.');
    let mut found = [0; N];
    for place in &mut found {
        let word = words.next().filter(|word| (1..=16).contains(&word.len()))?;
        for digit in word {
            *place = *place << 4 | u64::from((*digit as char).to_digit(16)?);
        }
    }
    words.next().is_none().then_some(found)
}

/// The sockets of ours that a new image will find open.
pub fn carried() -> impl Iterator<Item = Handle> {
    table::entries().filter_map(|(fd, entry)| match entry {
        Entry::Socket(id) => {
            let stays = sys::fcntl(fd, libc::F_GETFD, 0).is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0);
            stays.then(|| Handle::new(fd, id))?
        }
        _ => None,
    })
}

/// Whether the environment preloads the library.
///
/// # Safety
/// `envp` is null or a list of strings up to a null pointer.
pub unsafe fn preloads(envp: Strings) -> bool {
    // SAFETY: passed on to the caller.
    unsafe { strings(envp) }.any(|string| {
        string
            .strip_prefix(b"LD_PRELOAD=")
            .is_some_and(|value| value.windows(LIBRARY.len()).any(|window| window == LIBRARY))
    })
}

/// # Safety
/// `envp` is null or a list of strings up to a null pointer, which live as long as they are used.
unsafe fn strings<'a>(envp: Strings) -> impl Iterator<Item = &'a [u8]> {
    let mut next = envp;
    core::iter::from_fn(move || {
        // SAFETY: the caller vouches for the list.
        unsafe {
            if next.is_null() || (*next).is_null() {
                return None;
            }
            let string = CStr::from_ptr(*next).to_bytes();
            next = next.add(1);
            Some(string)
        }
    })
}

/// An environment for a new image, in memory of its own.
pub struct Environment {
    memory: *mut u8,
    length: usize,
}

impl Environment {
    /// `envp` with the sockets of this process named in it, and with the library put back if it is missing. None when
    /// there is no memory.
    ///
    /// # Safety
    /// `envp` is null or a list of strings up to a null pointer.
    pub unsafe fn naming_sockets(envp: Strings) -> Option<Environment> {
        // SAFETY: passed on to the caller.
        let (count, preloaded) = unsafe { (strings(envp).count(), preloads(envp)) };
        let pointers = (count + KEPT.len() + 3) * size_of::<*const c_char>();
        let length = pointers + 4096 + 64 * carried().count() + if preloaded { 0 } else { 16 * 1024 };
        let memory = sys::map_private(length).ok()?;
        let environment = Environment { memory, length };
        // SAFETY: a fresh mapping, split into the list of pointers and the text behind it.
        let (list, text) = unsafe {
            let list = core::slice::from_raw_parts_mut(memory.cast::<*const c_char>(), pointers / size_of::<usize>());
            (list, core::slice::from_raw_parts_mut(memory.add(pointers), length - pointers))
        };
        let mut text = Text { free: text };
        let mut list = list.iter_mut();
        let mut old_preload: &[u8] = b"";
        // SAFETY: as above.
        for string in unsafe { strings(envp) } {
            let preload = string.strip_prefix(b"LD_PRELOAD=").filter(|_| !preloaded);
            if let Some(old) = preload {
                old_preload = old;
            } else if !string.starts_with(b"PERSONA_SOCKETS=") {
                *list.next()? = string.as_ptr().cast();
            }
        }
        *list.next()? = text.string(|text| name_sockets(text))?;
        if !preloaded {
            *list.next()? = text.string(|text| preload(text, old_preload))?;
            for name in KEPT {
                // SAFETY: as above.
                let present =
                    unsafe { strings(envp) }.any(|string| environment::value_of(string, name.to_bytes()).is_some());
                let mut value = [0; 2048];
                if let Some(value) = environment::ours(name, &mut value)
                    && !present
                {
                    *list.next()? = text.string(|text| {
                        text.bytes(name.to_bytes())?;
                        text.bytes(b"=")?;
                        text.bytes(value)
                    })?;
                }
            }
        }
        // The mapping was zero: the list ends with a null pointer.
        list.next()?;
        Some(environment)
    }

    pub fn strings(&self) -> Strings {
        self.memory.cast::<*const c_char>().cast_const()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // SAFETY: mapped by `naming_sockets`; exec has failed, so nobody uses it any more.
        unsafe { sys::unmap(self.memory, self.length) };
    }
}

/// `PERSONA_SOCKETS=...` for the sockets of the session that is alive.
fn name_sockets(text: &mut Text) -> fmt::Result {
    text.bytes(VARIABLE.to_bytes())?;
    text.bytes(b"=")?;
    let Some(view) = attach::usable() else { return Ok(()) };
    let (session, [one, two]) = view.family();
    write!(text, "{session:x}.{one:x}.{two:x}")?;
    for handle in carried().filter(|handle| handle.id.session == view.index()) {
        let Ok(inode) = sys::inode(handle.fd) else { continue };
        write!(text, ";{:x}.{inode:x}.{:x}.{:x}", handle.fd, handle.id.slot, handle.id.generation)?;
    }
    Ok(())
}

/// `LD_PRELOAD=` with this library's own path and what was there.
fn preload(text: &mut Text, old: &[u8]) -> fmt::Result {
    let mut found = core::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr fills the record for an address of ours; the name it gives lives as long as the library.
    let path = unsafe {
        if libc::dladdr(preload as *const () as *const _, found.as_mut_ptr()) == 0 {
            return Err(fmt::Error);
        }
        CStr::from_ptr(found.assume_init().dli_fname)
    };
    text.bytes(b"LD_PRELOAD=")?;
    text.bytes(path.to_bytes())?;
    if !old.is_empty() {
        text.bytes(b":")?;
        text.bytes(old)?;
    }
    Ok(())
}

/// True if relay could not serve one of the carried sockets: a listener has no payload to pass through its descriptor.
pub fn carries_listener() -> bool {
    carried().any(|handle| handle.has(state_bits::LISTENING))
}

/// Room for strings.
struct Text<'a> {
    free: &'a mut [u8],
}

impl Text<'_> {
    /// A NUL-terminated string made by `write`; None if it does not fit.
    fn string(&mut self, write: impl FnOnce(&mut Self) -> fmt::Result) -> Option<*const c_char> {
        let start = self.free.as_ptr();
        write(self).ok()?;
        self.bytes(b"\0").ok()?;
        Some(start.cast())
    }

    fn bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        let free = core::mem::take(&mut self.free);
        let (taken, rest) = free.split_at_mut_checked(bytes.len()).ok_or(fmt::Error)?;
        taken.copy_from_slice(bytes);
        self.free = rest;
        Ok(())
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes())
    }
}
