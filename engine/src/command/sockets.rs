//! `persona sockets`: what `ss -tin` shows, for the engine's sockets and for those that it left to the host.

use super::table::{Align, lines};
use super::{EngineName, admin_client, print_json};
use crate::admin::{Request, Socket, Tcp};
use anyhow::Result;
use std::fmt::{Display, Write as _};
use std::io::Write as _;

pub(super) fn show(engine: &EngineName, json: bool) -> Result<()> {
    let mut sockets: Vec<Socket> = admin_client::ask(&engine.place()?, &Request::Sockets)?;
    sockets.sort_by(|one, other| (&one.local, &one.remote).cmp(&(&other.local, &other.remote)));
    if json {
        return print_json(&sockets);
    }
    let mut out = std::io::stdout().lock();
    for line in render(&sockets) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn render(sockets: &[Socket]) -> Vec<String> {
    use Align::{Left, Right};
    let head = [
        ("State", Left),
        ("Recv-Q", Right),
        ("Send-Q", Right),
        ("Local Address:Port", Right),
        ("Peer Address:Port", Right),
        ("Process", Left),
    ];
    let rows: Vec<[String; 6]> = sockets.iter().map(row).collect();
    let mut table = lines(head, &rows).into_iter();
    let mut rendered: Vec<String> = table.next().into_iter().collect();
    for (line, socket) in table.zip(sockets) {
        rendered.push(line);
        let details = socket.tcp.as_ref().map(details).unwrap_or_default();
        if !details.is_empty() {
            rendered.push(format!("\t {details}"));
        }
    }
    rendered
}

fn row(socket: &Socket) -> [String; 6] {
    let mut process = String::new();
    if let Some(pid) = socket.pid {
        let program = socket.program.as_deref().unwrap_or("?");
        // Writing to a String cannot fail, here and below.
        let _ = write!(process, "users:((\"{program}\",pid={pid}))");
    }
    if let Some(timer) = &socket.timer {
        let _ = write!(process, " timer:({},{}ms,{})", timer.name, timer.milliseconds, timer.retransmits);
    }
    if socket.relay {
        process.push_str(" relay");
    }
    if let Some(reason) = &socket.reason {
        let _ = write!(process, " host:({reason})");
    }
    [
        socket.state.clone(),
        socket.recv_q.to_string(),
        socket.send_q.to_string(),
        socket.local.clone(),
        socket.remote.clone(),
        process.trim_start().to_owned(),
    ]
}

/// In the order and spelling of `ss -i`; what is unknown, or zero where `ss` leaves it out, is left out.
fn details(tcp: &Tcp) -> String {
    let mut words = Words(Vec::new());
    words.flag(tcp.timestamps, "ts");
    words.flag(tcp.sack, "sack");
    if let Some(congestion) = &tcp.congestion {
        words.0.push(congestion.clone());
    }
    if let Some((peer, own)) = tcp.wscale {
        words.0.push(format!("wscale:{peer},{own}"));
    }
    words.number("rto", tcp.rto);
    match (tcp.rtt, tcp.rttvar) {
        (Some(rtt), Some(rttvar)) => words.0.push(format!("rtt:{}/{}", short(rtt), short(rttvar))),
        (rtt, _) => words.number("rtt", rtt),
    }
    words.value("mss", tcp.mss);
    words.value("pmtu", tcp.pmtu);
    words.value("advmss", tcp.advmss);
    words.value("cwnd", tcp.cwnd);
    words.value("ssthresh", tcp.ssthresh);
    words.positive("bytes_sent", tcp.bytes_sent);
    words.positive("bytes_retrans", tcp.bytes_retrans);
    words.positive("bytes_acked", tcp.bytes_acked);
    words.positive("bytes_received", tcp.bytes_received);
    words.positive("segs_out", tcp.segs_out);
    words.positive("segs_in", tcp.segs_in);
    words.value("lastsnd", tcp.lastsnd);
    words.value("lastrcv", tcp.lastrcv);
    words.value("lastack", tcp.lastack);
    words.positive("unacked", tcp.unacked.map(u64::from));
    if let (retrans @ 1.., total) | (retrans, total @ 1..) = (tcp.retrans.unwrap_or(0), tcp.retrans_total.unwrap_or(0))
    {
        words.0.push(format!("retrans:{retrans}/{total}"));
    }
    words.positive("lost", tcp.lost.map(u64::from));
    words.positive("sacked", tcp.sacked.map(u64::from));
    words.value("snd_wnd", tcp.snd_wnd);
    words.value("rcv_wnd", tcp.rcv_wnd);
    words.number("minrtt", tcp.min_rtt);
    words.0.join(" ")
}

struct Words(Vec<String>);

impl Words {
    fn flag(&mut self, set: bool, word: &str) {
        if set {
            self.0.push(word.to_owned());
        }
    }

    fn value(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.0.push(format!("{name}:{value}"));
        }
    }

    fn positive(&mut self, name: &str, value: Option<u64>) {
        self.value(name, value.filter(|&value| value > 0));
    }

    fn number(&mut self, name: &str, value: Option<f64>) {
        self.value(name, value.map(short));
    }
}

/// At most three decimals, and none that are zero.
fn short(milliseconds: f64) -> String {
    let text = format!("{milliseconds:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_look_as_ss_prints_them() {
        let sockets = [
            Socket {
                state: "LISTEN".into(),
                send_q: 511,
                local: "0.0.0.0:80".into(),
                remote: "0.0.0.0:*".into(),
                pid: Some(42),
                program: Some("nginx".into()),
                ..Socket::default()
            },
            Socket {
                state: "ESTAB".into(),
                recv_q: 5,
                local: "10.9.0.2:80".into(),
                remote: "10.9.0.1:40000".into(),
                pid: Some(43),
                program: Some("nginx".into()),
                tcp: Some(Tcp {
                    congestion: Some("cubic".into()),
                    timestamps: true,
                    sack: true,
                    wscale: Some((7, 8)),
                    rto: Some(204.0),
                    rtt: Some(0.0504),
                    rttvar: Some(0.02),
                    mss: Some(1448),
                    cwnd: Some(10),
                    bytes_sent: Some(0),
                    bytes_received: Some(77),
                    retrans: Some(0),
                    retrans_total: Some(3),
                    ..Tcp::default()
                }),
                ..Socket::default()
            },
            Socket {
                state: "HOST".into(),
                local: "*:*".into(),
                remote: "127.0.0.1:53".into(),
                pid: Some(44),
                program: Some("curl".into()),
                reason: Some("loopback".into()),
                ..Socket::default()
            },
        ];
        let expected = [
            "State  Recv-Q Send-Q Local Address:Port Peer Address:Port Process",
            "LISTEN      0    511         0.0.0.0:80         0.0.0.0:* users:((\"nginx\",pid=42))",
            "ESTAB       5      0        10.9.0.2:80    10.9.0.1:40000 users:((\"nginx\",pid=43))",
            "\t ts sack cubic wscale:7,8 rto:204 rtt:0.05/0.02 mss:1448 cwnd:10 bytes_received:77 retrans:0/3",
            "HOST        0      0                *:*      127.0.0.1:53 users:((\"curl\",pid=44)) host:(loopback)",
        ];
        assert_eq!(render(&sockets), expected);
    }

    #[test]
    fn without_sockets_only_the_head_is_there() {
        assert_eq!(render(&[]), ["State Recv-Q Send-Q Local Address:Port Peer Address:Port Process"]);
    }
}
