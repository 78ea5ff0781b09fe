//! Small requests at a steady pace on many connections, so that a path is never full of them and one that waits for a
//! retransmission does not hold up the next: what they take is the path and what TCP adds to it.

use crate::requests::Readable;
use crate::{MESSAGE, Outcome, PATIENCE, choose_congestion_control, open};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Between two requests: 200 in a second take 0.3 Mbit/s.
const PACE: Duration = Duration::from_millis(5);

struct Connection {
    stream: TcpStream,
    /// When the request under way was to be sent.
    since: Instant,
    /// Of its answer.
    have: usize,
}

pub fn measure(address: &str, time: Duration, connections: usize, controller: &str) -> Outcome<()> {
    let mut connections = establish(address, connections, controller)?;
    let set = Readable::new()?;
    for (number, connection) in connections.iter().enumerate() {
        set.add(&connection.stream, number as u64)?;
    }
    let mut idle: VecDeque<usize> = (0..connections.len()).collect();
    let mut microseconds: Vec<f64> = Vec::with_capacity((time.as_millis() / PACE.as_millis()) as usize + 1);
    let (started, message) = (Instant::now(), [0x5a; MESSAGE]);
    let mut next = started;
    loop {
        let now = Instant::now();
        if now >= started + time && idle.len() == connections.len() {
            break;
        }
        if now >= started + time + PATIENCE {
            return Err(format!("{} requests were never answered", connections.len() - idle.len()).into());
        }
        while next <= now && next < started + time {
            // Nobody idle: it counts from now on all the same.
            let Some(number) = idle.pop_front() else { break };
            let connection = &mut connections[number];
            connection.since = next;
            connection.stream.write_all(&message)?;
            next += PACE;
        }
        // A millisecond more than until the next, at most.
        let wait = next.saturating_duration_since(now).as_millis() as i32 + 1;
        for number in set.wait(if idle.is_empty() || next >= started + time { 10 } else { wait.min(10) })? {
            let connection = &mut connections[number as usize];
            let mut answer = [0; MESSAGE];
            match connection.stream.read(&mut answer[connection.have..])? {
                0 => return Err("the server closed a connection".into()),
                len => connection.have += len,
            }
            if connection.have == MESSAGE {
                connection.have = 0;
                microseconds.push(connection.since.elapsed().as_nanos() as f64 / 1000.0);
                idle.push_back(number as usize);
            }
        }
    }
    microseconds.sort_unstable_by(f64::total_cmp);
    let Some(last) = microseconds.len().checked_sub(1) else { return Err("not one request in time".into()) };
    let [p50, p99] = [0.5, 0.99].map(|part| microseconds[(last as f64 * part).round() as usize]);
    println!("{{\"count\":{},\"p50\":{p50:.1},\"p99\":{p99:.1}}}", last + 1);
    Ok(())
}

/// All at once, since a round trip may be long; each has had a request answered.
fn establish(address: &str, count: usize, controller: &str) -> Outcome<Vec<Connection>> {
    let one = || {
        let mut stream = open(address)?;
        choose_congestion_control(&stream, controller)?;
        stream.write_all(b"q")?;
        stream.write_all(&[0x5a; MESSAGE])?;
        stream.read_exact(&mut [0; MESSAGE])?;
        Outcome::Ok(Connection { stream, since: Instant::now(), have: 0 })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic while connecting");
        threads.into_iter().map(join).collect()
    })
}
