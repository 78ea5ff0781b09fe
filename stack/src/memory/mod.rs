//! The caller's memory as typed slices: every table, list and counter of the stack is a plain record in here, linked
//! by index, so that a copy of the memory is a copy of the stack.
//!
//! [`carve`] cuts the block; [`Pool`], [`FlowTable`] and [`Wheel`] are the structures over the pieces. None of them
//! allocates and none holds a pointer.

mod carve;
mod pool;
mod table;
mod wheel;

pub(crate) use carve::Carver;
pub(crate) use pool::{Pool, PoolState, Record, Taken};
pub(crate) use table::{FlowTable, Slot};
pub(crate) use wheel::{TimerNode, Wheel, WheelState, next_deadline};

/// No index: the end of a list.
pub(crate) const NONE: u32 = u32::MAX;
