//! What one direction of an emulated link does to frames, and its form on a command line: `key=value` with commas
//! between, as in `rate=100m,delay=10ms,queue=250000,loss=1000`.

use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::time::Duration;

/// One direction. The default forwards at once and loses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Bit/s on the wire, preamble, checksum and gap of Ethernet included; 0 is no limit.
    pub rate: u64,
    /// Of propagation: added behind the queue.
    pub delay: Duration,
    /// More delay, from nothing to this, drawn for each frame. Frames stay in their order.
    pub jitter: Duration,
    /// Bytes on the wire that may wait, the frame under way included; what comes beyond is dropped. 0 is no limit.
    /// A frame that finds nothing before it always enters.
    pub queue: u64,
    /// A frame with an ECN-capable codepoint is marked CE when as many bytes or more wait before it; 0 is never.
    pub mark: u64,
    /// Frames lost behind the queue, per million, each by itself.
    pub loss: u32,
    /// Gilbert's model: per million, how often a frame begins a burst in which everything is lost ...
    pub burst_begins: u32,
    /// ... and how often a frame of a burst is its last.
    pub burst_ends: u32,
    /// Frames that are delayed by `reorder_by` more, while later ones pass them; per million.
    pub reorder: u32,
    pub reorder_by: Duration,
    /// Frames that arrive twice, per million.
    pub duplicate: u32,
    /// Times, since the beginning and how long, in which everything that enters is lost.
    pub outages: Vec<(Duration, Duration)>,
}

/// The keys with their units, for usage lines.
pub const KEYS: &str = "rate=BIT/S[k|m|g] delay=TIME jitter=TIME queue=BYTES mark=BYTES loss=PPM burst=PPM/PPM \
                        reorder=PPM/TIME duplicate=PPM outage=TIME/TIME (TIME: 10ms, 250us, 3s, 5ns); `none` for nothing";

impl Conditions {
    /// Reads `key=value,key=value`, or `none`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut conditions = Self::default();
        for assignment in text.split(',').filter(|part| !part.is_empty() && *part != "none") {
            conditions.set(assignment).with_context(|| format!("`{assignment}`: the keys are {KEYS}"))?;
        }
        let bursts = (conditions.burst_begins > 0) == (conditions.burst_ends > 0);
        ensure!(bursts, "a burst that never ends, or ends without having begun: burst takes two rates above 0");
        ensure!(
            conditions.rate > 0 || (conditions.queue == 0 && conditions.mark == 0),
            "queue and mark count what waits for the rate, and there is no rate"
        );
        Ok(conditions)
    }

    fn set(&mut self, assignment: &str) -> Result<()> {
        let (key, value) = assignment.split_once('=').context("not of the form key=value")?;
        let pair = || value.split_once('/').context("not of the form one/other");
        match key {
            "rate" => self.rate = rate(value)?,
            "delay" => self.delay = time(value)?,
            "jitter" => self.jitter = time(value)?,
            "queue" => self.queue = value.parse()?,
            "mark" => self.mark = value.parse()?,
            "loss" => self.loss = per_million(value)?,
            "burst" => {
                (self.burst_begins, self.burst_ends) = (per_million(pair()?.0)?, per_million(pair()?.1)?);
            }
            "reorder" => (self.reorder, self.reorder_by) = (per_million(pair()?.0)?, time(pair()?.1)?),
            "duplicate" => self.duplicate = per_million(value)?,
            "outage" => self.outages.push((time(pair()?.0)?, time(pair()?.1)?)),
            _ => bail!("no such key"),
        }
        Ok(())
    }
}

/// In the form that `parse` reads, exactly.
impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, delay, jitter, queue, mark, loss, burst_begins, burst_ends, reorder, reorder_by, .. } = self;
        let ns = |time: &Duration| format!("{}ns", time.as_nanos());
        write!(f, "rate={rate},delay={},jitter={},queue={queue},mark={mark},loss={loss}", ns(delay), ns(jitter))?;
        write!(f, ",burst={burst_begins}/{burst_ends},reorder={reorder}/{}", ns(reorder_by))?;
        write!(f, ",duplicate={}", self.duplicate)?;
        self.outages.iter().try_for_each(|(from, long)| write!(f, ",outage={}/{}", ns(from), ns(long)))
    }
}

fn rate(text: &str) -> Result<u64> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        _ => bail!("{unit} is no unit of a rate"),
    };
    number.parse::<u64>()?.checked_mul(factor).context("too large a rate")
}

fn time(text: &str) -> Result<Duration> {
    let (number, unit) = split_unit(text);
    let number = number.parse()?;
    match unit {
        "ns" => Ok(Duration::from_nanos(number)),
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => bail!("a time needs a unit: ns, us, ms or s"),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()))
}

fn per_million(text: &str) -> Result<u32> {
    let number = text.parse()?;
    ensure!(number <= 1_000_000, "{number} is more than a million per million");
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let text = "rate=100m,delay=10ms,jitter=250us,queue=250000,mark=30000,loss=1000,burst=100/50000,\
                    reorder=10000/2ms,duplicate=5,outage=1s/200ms,outage=3s/1ms";
        let conditions = Conditions::parse(text).unwrap();
        assert_eq!(conditions.rate, 100_000_000);
        assert_eq!(conditions.reorder_by, Duration::from_millis(2));
        assert_eq!(conditions.outages[0], (Duration::from_secs(1), Duration::from_millis(200)));
        assert_eq!(Conditions::parse(&conditions.to_string()).unwrap(), conditions);
        assert_eq!(Conditions::parse("none").unwrap(), Conditions::default());
        assert_eq!(Conditions::parse(&Conditions::default().to_string()).unwrap(), Conditions::default());
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_word_it_is_in() {
        for (text, word) in [
            ("speed=3", "`speed=3`"),
            ("delay=10", "`delay=10`"),
            ("loss=1000001", "`loss=1000001`"),
            ("rate=5x", "`rate=5x`"),
            ("reorder=5", "`reorder=5`"),
            ("burst=5/0", "never ends"),
            ("queue=1000", "no rate"),
        ] {
            let error = Conditions::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
