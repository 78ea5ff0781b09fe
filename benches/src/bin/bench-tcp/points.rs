//! The paths: rate, round trip, loss and queue of the bottleneck, each a kind of network that people have.

use anyhow::{Result, bail};
use persona_tests::Conditions;
use std::time::Duration;

/// Products of rate and round trip are at most 2.5 MB, and 3.2 MB with the queue: either side's buffers, as they are
/// by default (4 MiB), hold more.
pub struct Point {
    pub name: &'static str,
    /// Bit/s on the wire, each way.
    pub rate: u64,
    /// Microseconds, without queueing.
    pub round_trip: u64,
    /// Data frames lost, per million. The way of the acknowledgements loses nothing.
    pub loss: u32,
    /// The queue, in hundredths of rate times round trip.
    pub queue: u64,
    /// In the short run, too.
    pub quick: bool,
}

const M: u64 = 1_000_000;

const fn point(name: &'static str, mbit: u64, round_trip: u64, loss: u32, queue: u64) -> Point {
    Point { name, rate: mbit * M, round_trip, loss, queue, quick: false }
}

const fn quick(point: Point) -> Point {
    Point { quick: true, ..point }
}

#[rustfmt::skip]
pub const POINTS: [Point; 20] = [
    //                          Mbit/s        us   loss  queue
    quick(point("dsl",               5,   30_000,     0,   100)),
    point("dsl, bufferbloat",        5,   30_000,     0,   400),
    point("dsl, 1 % loss",           5,   30_000, 10_000,  100),
    point("satellite",              10,  600_000,     0,   100),
    point("satellite, 0.1 % loss",  20,  600_000, 1_000,   100),
    point("mobile, bufferbloat",    20,   60_000,     0,   400),
    point("mobile, 1 % loss",       20,   60_000, 10_000,  100),
    point("cable",                  50,   20_000,     0,   100),
    point("cable, short queue",     50,   20_000,     0,    25),
    point("cable, 0.1 % loss",      50,   20_000, 1_000,   100),
    point("radio, 3 % loss",       100,   10_000, 30_000,  100),
    point("fibre",                 100,   40_000,     0,   100),
    point("fibre, short queue",    100,   40_000,     0,    25),
    quick(point("fibre, 0.01 % loss", 100, 40_000,  100,   100)),
    point("ocean",                 200,  100_000,     0,    25),
    point("ocean, 0.01 % loss",    200,  100_000,   100,    25),
    point("city",                  500,    5_000,     0,   100),
    quick(point("building",       1000,    1_000,     0,   100)),
    point("building, short queue", 1000,   1_000,     0,    25),
    point("region, 0.1 % loss",    1000,  20_000, 1_000,    25),
];

impl Point {
    /// From the sender of bulk, and back.
    pub fn conditions(&self) -> [Conditions; 2] {
        let there = Conditions {
            rate: self.rate,
            delay: Duration::from_micros(self.round_trip / 2),
            queue: self.queue_bytes(),
            loss: self.loss,
            ..Conditions::default()
        };
        [there.clone(), Conditions { loss: 0, ..there }]
    }

    pub fn queue_bytes(&self) -> u64 {
        // Two frames at least, or it is none.
        (self.rate / 8 * self.round_trip / M * self.queue / 100).max(2 * 1538)
    }

    /// Long enough for the beginning (ten round trips) and what follows.
    pub fn milliseconds(&self) -> u64 {
        2_000 + self.round_trip / 100
    }

    /// Enough that a request finds one idle while some wait for a retransmission.
    pub fn connections(&self) -> u32 {
        (self.round_trip / 5_000 * 3 / 2) as u32 + 16
    }

    /// With this much lateness in the mean the emulator has changed the path, microseconds.
    pub fn tolerance(&self) -> u64 {
        (self.round_trip / 20).clamp(100, 2_000)
    }
}

/// Points by their names, or all of an effort.
pub fn chosen(names: &[String], quick: bool) -> Result<Vec<&'static Point>> {
    if names.is_empty() {
        return Ok(POINTS.iter().filter(|point| !quick || point.quick).collect());
    }
    let find = |name: &String| POINTS.iter().find(|point| point.name == name);
    let Some(unknown) = names.iter().find(|name| find(name).is_none()) else {
        return Ok(names.iter().filter_map(find).collect());
    };
    let known: Vec<_> = POINTS.iter().map(|point| format!("`{}`", point.name)).collect();
    bail!("`{unknown}` is no point; there are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_points_span_what_they_promise_and_fit_into_default_buffers() {
        let mut names: Vec<_> = POINTS.iter().map(|point| point.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), POINTS.len(), "names are unique");
        for point in &POINTS {
            let product = point.rate / 8 * point.round_trip / M;
            assert!(product + point.queue_bytes() <= 3_200_000, "{}", point.name);
        }
        let range =
            |of: fn(&Point) -> u64| (POINTS.iter().map(of).min().unwrap(), POINTS.iter().map(of).max().unwrap());
        assert_eq!(range(|point| point.rate), (5 * M, 1000 * M));
        assert_eq!(range(|point| point.round_trip), (1_000, 600_000));
        assert_eq!(range(|point| u64::from(point.loss)), (0, 30_000));
        assert_eq!(range(|point| point.queue), (25, 400));
    }

    #[test]
    fn a_name_that_is_none_is_told_with_those_that_are() {
        assert_eq!(chosen(&[], true).unwrap().len(), 3);
        assert_eq!(chosen(&["city".into()], false).unwrap()[0].round_trip, 5_000);
        let error = chosen(&["moon".into()], false).err().unwrap().to_string();
        assert!(error.starts_with("`moon` is no point; there are `dsl`"), "{error}");
    }
}
