//! What Persona costs, beside what the host kernel costs. The pure costs are criterion benches in `benches/`; what a
//! user sees is measured by the binary `endtoend`, which runs the binary `load` as its unmodified program at both ends,
//! and the binary `minimal` as what no stack over the same ring can surpass; the modules here are what they share.

pub mod figures;
pub mod ground;
pub mod machine;
pub mod memory;
pub mod minimal;
pub mod report;
pub mod sample;
pub mod stream;
