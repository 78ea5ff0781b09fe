//! fork and its relatives. A child goes on in the session it inherited; what it must not keep, it closes before fork()
//! returns. vfork is fork: a child that shared our memory would write to its parent's table.

use libc::pid_t;

use crate::export::export;
use crate::{attach, epoll, real};

export! {
    fn fork() -> pid_t {
        epoll::share_all();
        let child = real::fork();
        if child == 0 {
            attach::in_child();
            // While it still is who its parent was: it may be about to change user or enter a sandbox.
            attach::reconnect();
        }
        child
    }

    fn vfork() -> pid_t {
        let child = real::fork();
        if child == 0 {
            // It will most likely exec: no connection of its own until it needs one.
            attach::in_child();
        }
        child
    }

    fn _Fork() -> pid_t {
        epoll::share_all();
        let child = real::_Fork();
        if child == 0 {
            attach::in_child();
        }
        child
    }

    fn daemon(keep_directory: core::ffi::c_int, keep_streams: core::ffi::c_int) -> core::ffi::c_int {
        // libc's own forks behind our back and puts /dev/null under the standard numbers.
        let result = real::daemon(keep_directory, keep_streams);
        if result == 0 {
            attach::check_process();
            if keep_streams == 0 {
                for fd in 0..3 {
                    crate::descriptors::release(fd, crate::table::get(fd));
                }
            }
        }
        result
    }
}
