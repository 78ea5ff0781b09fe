//! What Persona costs, beside what the host kernel costs. The pure costs are criterion benches in `benches/`; what a
//! user sees is measured by the binary `endtoend`, which runs the binary `load` as its unmodified program at both ends
//! and hands what it said to the modules here.

pub mod figures;
pub mod machine;
pub mod memory;
pub mod report;
