//! Processor time as the kernel counts it: of the whole machine, of one process, of one thread.

use anyhow::{Context, Result};
use std::time::Duration;

/// Seconds that all processors have spent on anything but idling (interrupts and softirqs included) since boot.
pub fn busy_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal; guest time is in user already. Stolen time is nobody's work here.
    let busy = [0, 1, 2, 5, 6].iter().map(|&column| ticks.get(column).copied().unwrap_or(0)).sum::<u64>();
    Ok(busy as f64 / ticks_per_second())
}

/// Seconds that the process `pid` and its threads have spent, in user mode and in the kernel.
pub fn process_seconds(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name, in parentheses, may hold spaces.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path} is not a stat line"))?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let [user, system] = [11, 12].map(|at| fields.get(at).and_then(|text| text.parse::<u64>().ok()));
    let ticks = user.context("utime")? + system.context("stime")?;
    Ok(ticks as f64 / ticks_per_second())
}

/// Processor time of the calling thread: what others do on the machine is not in it, but for cold caches.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes a timespec to a local one.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(outcome, 0, "every thread has a clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How many processors are busy at the moment, on average over two seconds. (The load average would also count what
/// ended a minute ago.)
pub fn busy_processors() -> Result<f64> {
    let (before, started) = (busy_seconds()?, std::time::Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    Ok((busy_seconds()? - before) / started.elapsed().as_secs_f64())
}

fn ticks_per_second() -> f64 {
    // SAFETY: asks for a number.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}
