//! The simulation's only source of chance: SplitMix64, so that a seed is a run.

/// A generator; copies go on alike.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed ^ 0x5be0_cd19_137e_2179);
        rng.next();
        rng
    }

    /// A generator of its own for a part of the simulation, so that one part's draws do not change another's.
    pub fn fork(&mut self) -> Self {
        Self::new(self.next())
    }

    #[expect(clippy::should_implement_trait, reason = "an endless generator is no iterator that callers would chain")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// `0 .. bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// `from ..= to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// Between `from` and `to`, each order of magnitude equally likely.
    pub fn magnitude(&mut self, from: u64, to: u64) -> u64 {
        let (low, high) = (from.max(1).ilog2(), to.max(1).ilog2());
        let power = self.between(u64::from(low), u64::from(high));
        (1 << power | self.below(1 << power)).clamp(from, to)
    }

    /// True with a probability of `parts` in a million.
    pub fn chance(&mut self, parts: u32) -> bool {
        self.below(1_000_000) < u64::from(parts)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A number that looks like no other's.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
