//! One thing after another on one thread: round trips on one connection, and short connections.

use crate::{MESSAGE, Outcome, open};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

pub fn echo(address: &str, time: Duration) -> Outcome<()> {
    let mut stream = open(address)?;
    stream.write_all(b"e")?;
    let mut message = [0x5a; MESSAGE];
    let mut nanoseconds = Vec::with_capacity(1 << 20);
    let started = Instant::now();
    // The first tenth warms caches and predictors up.
    let warm = time / 10;
    while started.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        if started.elapsed() >= warm {
            nanoseconds.push(sent.elapsed().as_nanos() as u64);
        }
    }
    nanoseconds.sort_unstable();
    let Some(last) = nanoseconds.len().checked_sub(1) else { return Err("not one round trip in time".into()) };
    let [p50, p99, p999] =
        [0.5, 0.99, 0.999].map(|part| nanoseconds[(last as f64 * part).round() as usize] as f64 / 1000.0);
    println!("{{\"count\":{},\"p50\":{p50:.3},\"p99\":{p99:.3},\"p999\":{p999:.3}}}", last + 1);
    Ok(())
}

pub fn connect(address: &str, time: Duration) -> Outcome<()> {
    let (mut count, started) = (0u64, Instant::now());
    while started.elapsed() < time {
        let mut stream = open(address)?;
        stream.write_all(b"c")?;
        let mut answer = [0; 1];
        stream.read_exact(&mut answer)?;
        // The server closes first and keeps the TIME-WAIT.
        if stream.read(&mut answer)? != 0 {
            return Err("more than the answer".into());
        }
        count += 1;
    }
    println!("{{\"count\":{count},\"seconds\":{:.6}}}", started.elapsed().as_secs_f64());
    Ok(())
}
