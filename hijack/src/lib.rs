//! The preload library: connects unmodified programs to the engine over shared memory.
