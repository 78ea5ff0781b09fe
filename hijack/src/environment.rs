//! The environment, as it is now and as this image was given it.
//!
//! Programs drop their environment before they make the first call that concerns us (`env -i` does before exec), so
//! what is meant for the library is looked for in both. All that runs when the library is loaded is here: it stores
//! where the environment lies.

use core::ffi::{CStr, c_char, c_int};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::inherit::Strings;

/// The list of strings that the kernel gave this image. It lies above the stack for the life of the process; programs
/// overwrite its strings (for the title that ps shows), which then are other strings.
static GIVEN: AtomicPtr<*const c_char> = AtomicPtr::new(null_mut());

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn(c_int, Strings, Strings) = remember;

extern "C" fn remember(_count: c_int, _arguments: Strings, environment: Strings) {
    GIVEN.store(environment.cast_mut(), Ordering::Relaxed);
}

/// Copies the value of a variable into `buffer`; None if it is unset or does not fit.
pub fn current<'a>(name: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    // SAFETY: name is NUL-terminated; the value is copied at once.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: getenv returns a NUL-terminated string.
    copied(unsafe { CStr::from_ptr(value) }.to_bytes(), buffer)
}

/// As [`current`], of a variable that is meant for the library: one that the program has dropped still counts.
pub fn ours<'a>(name: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    with_ours(name, |value| copied(value, buffer)).flatten()
}

/// Calls `act` with the value of a variable that is meant for the library.
pub fn with_ours<T>(name: &CStr, act: impl FnOnce(&[u8]) -> T) -> Option<T> {
    // SAFETY: name is NUL-terminated.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if !value.is_null() {
        // SAFETY: getenv returns a NUL-terminated string.
        return Some(act(unsafe { CStr::from_ptr(value) }.to_bytes()));
    }
    let mut next = GIVEN.load(Ordering::Relaxed).cast_const();
    if next.is_null() {
        return None;
    }
    // SAFETY: the list ends with a null pointer, and behind its last string zeroes end the memory above the stack.
    unsafe {
        while !(*next).is_null() {
            if let Some(value) = value_of(CStr::from_ptr(*next).to_bytes(), name.to_bytes()) {
                return Some(act(value));
            }
            next = next.add(1);
        }
    }
    None
}

/// The value in `NAME=value`, if that is the name.
pub fn value_of<'a>(string: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    string.strip_prefix(name)?.strip_prefix(b"=")
}

fn copied<'a>(value: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let target = buffer.get_mut(..value.len())?;
    target.copy_from_slice(value);
    Some(target)
}
