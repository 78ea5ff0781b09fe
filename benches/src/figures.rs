//! Samples of one figure: Persona and host in turn, and what is made of them.

/// Which end of the scale is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// What the ratio of a figure has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub fn met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }
}

/// One figure, measured several times against something else on the same ground.
#[derive(Clone, Debug)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub better: Better,
    /// (Persona, the other), in the order in which they were taken.
    pub pairs: Vec<(f64, f64)>,
    /// Of the median ratio.
    pub target: Option<Target>,
}

impl Figure {
    pub fn new(name: impl Into<String>, unit: &'static str, better: Better) -> Self {
        Self { name: name.into(), unit, better, pairs: vec![], target: None }
    }

    pub fn with_target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// Ratios of the pairs, smallest first. Only what was measured in turn is divided.
    pub fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<f64> = self.pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    pub fn median_ratio(&self) -> f64 {
        middle(&self.ratios())
    }

    /// Medians of the two sides.
    pub fn medians(&self) -> (f64, f64) {
        let ours: Vec<f64> = self.pairs.iter().map(|pair| pair.0).collect();
        let theirs: Vec<f64> = self.pairs.iter().map(|pair| pair.1).collect();
        (median(&ours), median(&theirs))
    }
}

/// The median of `samples`; not a number when there are none.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    middle(&sorted)
}

fn middle(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_of_pairs_and_not_of_medians() {
        let mut figure = Figure::new("a figure", "s", Better::Lower).with_target(Target::AtMost(0.5));
        figure.pairs = vec![(1.0, 4.0), (10.0, 10.0), (2.0, 4.0)];
        assert_eq!(figure.ratios(), [0.25, 0.5, 1.0]);
        assert_eq!(figure.median_ratio(), 0.5);
        assert_eq!(figure.medians(), (2.0, 4.0));
        assert!(figure.target.unwrap().met(0.5));
        assert!(!figure.target.unwrap().met(0.51));
        assert!(!Target::AtLeast(1.0).met(0.99));
    }
}
