//! `libpersona.so`: the preload library that connects unmodified applications to a Persona engine.
//!
//! It defines the socket functions of libc under their own names. A call on a descriptor that is not ours goes to
//! libc untouched; a call on one of ours works on the session's shared memory, and makes a system call only to sleep
//! or to wake. Who is called first: the rooms with `export!` in them ([`io`], [`socket`], [`poll`], [`epoll`] ...) find
//! a [`handle::Handle`] through the [`table`] and work on it.
//!
//! The library links std and uses none of it but thread locals: no allocation, no thread, no I/O of std's. When it is loaded
//! one word is stored ([`environment`]). Everything is async-signal-safe once a process has attached.

mod accept;
mod address;
mod anchors;
mod attach;
mod command;
mod connect;
mod critical;
mod descriptors;
mod environment;
mod epoll;
mod epoll_part;
mod epoll_set;
mod exec;
mod export;
mod fork;
mod handle;
mod host;
mod identity;
mod image;
mod inherit;
mod io;
mod lock;
mod options;
mod pieces;
mod place;
mod poll;
mod real;
mod relay;
mod relisten;
mod report;
mod rows;
mod select;
mod sendfile;
mod signals;
mod socket;
mod spin;
mod stdio;
mod stream_io;
mod sys;
mod table;
mod wait;
