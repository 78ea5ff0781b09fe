//! What Persona costs, beside what the host kernel costs. The pure costs are criterion benches in `benches/`.
