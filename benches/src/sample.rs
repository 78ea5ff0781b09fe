//! What the programs print, as numbers, and figures made of rounds of it.

use crate::figures::{Better, Figure};
use anyhow::{Context, Result};
use serde_json::Value;

/// A number that a sample holds or that is made of several.
pub type Read = fn(&Value) -> Result<f64>;

pub fn field(sample: &Value, name: &str) -> Result<f64> {
    sample[name].as_f64().with_context(|| format!("no number {name} in {sample}"))
}

/// Goodput in Gbit/s.
pub fn gigabits(sample: &Value) -> Result<f64> {
    Ok(field(sample, "bytes")? * 8.0 / 1e9 / field(sample, "seconds")?)
}

/// Busy processor seconds of the whole machine.
pub fn cpu_per_gigabyte(sample: &Value) -> Result<f64> {
    Ok(field(sample, "busy_seconds")? / (field(sample, "bytes")? / 1e9))
}

/// What was done `count` times.
pub fn per_second(sample: &Value) -> Result<f64> {
    Ok(field(sample, "count")? / field(sample, "seconds")?)
}

impl Figure {
    /// Pairs of two contenders' samples of the same round.
    pub fn of_rounds<const N: usize>(
        name: String,
        (unit, better): (&'static str, Better),
        rounds: &[[Value; N]],
        (ours, theirs): (usize, usize),
        read: impl Fn(&Value) -> Result<f64>,
    ) -> Result<Self> {
        let mut figure = Self::new(name, unit, better);
        for round in rounds {
            figure.pairs.push((read(&round[ours])?, read(&round[theirs])?));
        }
        Ok(figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn samples_become_rates() {
        let bulk = json!({ "bytes": 2_000_000_000u64, "seconds": 4.0, "busy_seconds": 3.0 });
        assert_eq!(gigabits(&bulk).unwrap(), 4.0);
        assert_eq!(cpu_per_gigabyte(&bulk).unwrap(), 1.5);
        assert_eq!(per_second(&json!({ "count": 30, "seconds": 1.5 })).unwrap(), 20.0);
        let error = per_second(&bulk).unwrap_err().to_string();
        assert!(error.starts_with("no number count in"), "{error}");
    }

    #[test]
    fn pairs_are_of_the_same_round() {
        let rounds = [[json!({ "count": 1, "seconds": 1 }), json!({ "count": 2, "seconds": 1 }), json!(null)]];
        let unit = ("1/s", Better::Higher);
        let figure = Figure::of_rounds("f".into(), unit, &rounds, (1, 0), per_second).unwrap();
        assert_eq!(figure.pairs, [(2.0, 1.0)]);
        assert!(Figure::of_rounds("f".into(), unit, &rounds, (1, 2), per_second).is_err());
    }
}
