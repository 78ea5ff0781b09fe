//! Options one by one, and all of them against `docs/sockopts.md`.

use super::socket::LEAST_SEND_BUFFER;
use super::*;
use std::collections::BTreeMap;

fn settings() -> Settings {
    Settings::new(Limits {
        send_buffer: 1 << 20,
        receive_buffer: 1 << 20,
        backlog: 16,
        defaults: SocketOptions::default(),
    })
}

fn set(settings: &mut Settings, level: i32, name: i32, value: i32) -> Result<Effect, Errno> {
    settings.set(level, name, &value.to_ne_bytes(), Stage::Idle)
}

fn get(settings: &Settings, level: i32, name: i32) -> Result<Value, Errno> {
    settings.value(level, name, 256, &Sysctls::LINUX)
}

const DOCUMENT: &str = include_str!("../../../../docs/sockopts.md");

/// Answered by the library or from a live connection.
const ELSEWHERE: [(i32, i32); 11] = [
    (libc::SOL_SOCKET, 4),
    (libc::SOL_SOCKET, 20),
    (libc::SOL_SOCKET, 21),
    (libc::SOL_SOCKET, 28),
    (libc::SOL_SOCKET, 30),
    (libc::SOL_SOCKET, 57),
    (libc::SOL_SOCKET, 66),
    (libc::SOL_SOCKET, 67),
    (libc::IPPROTO_TCP, 11),
    (libc::IPPROTO_IP, 14),
    (libc::IPPROTO_IP, 52),
];

/// What the document says of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    name: &'static str,
    treatment: &'static str,
    remarks: &'static str,
}

fn rows() -> BTreeMap<(i32, i32), Row> {
    let mut rows = BTreeMap::new();
    let mut level = None;
    for line in DOCUMENT.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            level = Some(match heading {
                "SOL_SOCKET" => libc::SOL_SOCKET,
                "IPPROTO_TCP" => libc::IPPROTO_TCP,
                "IPPROTO_IP" => libc::IPPROTO_IP,
                other => panic!("no level is called {other}"),
            });
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, number, treatment, remarks, _] = cells[..] else { continue };
        let (Some(level), Ok(number)) = (level, number.parse()) else { continue };
        let earlier = rows.insert((level, number), Row { name, treatment, remarks });
        assert_eq!(earlier, None, "{name} is there once");
    }
    rows
}

fn errno(remarks: &str) -> Errno {
    match remarks.split([':', ',', ';']).next().unwrap_or_default() {
        "ENOPROTOOPT" => libc::ENOPROTOOPT,
        "EOPNOTSUPP" => libc::EOPNOTSUPP,
        "EADDRNOTAVAIL" => libc::EADDRNOTAVAIL,
        "ENODEV" => libc::ENODEV,
        "ENOENT" => libc::ENOENT,
        "EINVAL" => libc::EINVAL,
        "EPERM" => libc::EPERM,
        "EPROTO" => libc::EPROTO,
        other => panic!("a refusal names its error first: {other:?}"),
    }
}

/// Values that some option takes.
const VALUES: [i32; 7] = [1, 2, 7, 100, 2_000, 100_000, 0];

#[test]
fn the_document_says_what_the_code_does() {
    let rows = rows();
    assert!(rows.len() > 150, "{} rows", rows.len());
    for level in [libc::SOL_SOCKET, libc::IPPROTO_TCP, libc::IPPROTO_IP] {
        for number in 0..100 {
            let fresh = settings();
            let attempts = VALUES.map(|value| set(&mut fresh.clone(), level, number, value));
            let shown = get(&fresh, level, number);
            let Some(row) = rows.get(&(level, number)) else {
                let refused = Err(libc::ENOPROTOOPT);
                assert!(attempts.iter().all(|attempt| *attempt == refused), "{level}.{number} is not in the document");
                assert_eq!(shown, Err(libc::ENOPROTOOPT), "{level}.{number} is not in the document");
                continue;
            };
            if ELSEWHERE.contains(&(level, number)) {
                continue;
            }
            let taken = attempts.iter().filter(|attempt| attempt.is_ok()).count();
            match row.treatment {
                // Their values are no numbers.
                "works" if matches!(row.name, "TCP_CONGESTION" | "SO_LINGER") => {}
                "works" => assert!(taken > 0, "{} can be set", row.name),
                "kept" => {
                    assert!(taken > 0, "{} can be set", row.name);
                    assert!(!attempts.contains(&Ok(Effect::Stack)), "{} has no effect", row.name);
                    assert_eq!(shown.is_err(), row.remarks.contains("cannot be read"), "{}", row.name);
                    if !row.remarks.contains("reads 0") && shown.is_ok() {
                        let mut settings = fresh;
                        let changes = VALUES.into_iter().any(|value| {
                            set(&mut settings, level, number, value).is_ok() && get(&settings, level, number) != shown
                        });
                        assert!(changes, "{} is read back", row.name);
                    }
                }
                "shown" => assert_eq!(taken, 0, "{} cannot be set", row.name),
                "refused" => {
                    let wrong = |attempt: &&Result<Effect, Errno>| {
                        attempt.is_ok() || **attempt == Err(errno(row.remarks)) || **attempt == Err(libc::EINVAL)
                    };
                    assert!(attempts.iter().all(|attempt| wrong(&attempt)), "{} {attempts:?}", row.name);
                    let grants_nothing =
                        VALUES.iter().zip(&attempts).all(|(value, attempt)| *value == 0 || attempt.is_err());
                    assert!(grants_nothing, "{} {attempts:?}", row.name);
                }
                other => panic!("{} is {other:?}", row.name),
            }
        }
    }
    assert!(rows.keys().all(|(_, number)| (0..100).contains(number)));
}

#[test]
fn what_is_set_is_read_back_as_linux_shows_it() {
    let mut settings = settings();
    for (level, name, value, shown) in [
        (libc::SOL_SOCKET, libc::SO_REUSEADDR, 5, 1),
        (libc::SOL_SOCKET, libc::SO_SNDBUF, 10_000, 20_000),
        (libc::SOL_SOCKET, libc::SO_SNDBUF, 1, LEAST_SEND_BUFFER as i32),
        (libc::SOL_SOCKET, libc::SO_RCVBUF, i32::MAX, 1 << 20),
        (libc::SOL_SOCKET, 72, 3, 3),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 30, 30),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 5, 5),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3, 3),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 1_500, 1_500),
        (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 4, 7),
        (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, i32::MAX, 29_887),
        (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, 7, 1_152),
        (libc::IPPROTO_IP, libc::IP_TOS, 0x13, 0x10),
        (libc::IPPROTO_IP, libc::IP_TTL, 9, 9),
    ] {
        set(&mut settings, level, name, value).unwrap();
        assert_eq!(get(&settings, level, name), Ok(Value::int(shown)), "level {level} name {name}");
    }
    assert_eq!(get(&settings, libc::SOL_SOCKET, libc::SO_PRIORITY), Ok(Value::int(6)), "by the type of service");
    assert_eq!(get(&settings.inherited(), libc::SOL_SOCKET, libc::SO_PRIORITY), Ok(Value::int(0)));
    assert_eq!(get(&settings.inherited(), libc::IPPROTO_TCP, libc::TCP_KEEPCNT), Ok(Value::int(3)));
}

#[test]
fn linger_of_zero_resets() {
    let mut settings = settings();
    let value = |on: i32, seconds: i32| [on.to_ne_bytes(), seconds.to_ne_bytes()].concat();
    let option = libc::SO_LINGER;
    let mut linger = |on, seconds| settings.set(libc::SOL_SOCKET, option, &value(on, seconds), Stage::Idle).unwrap();
    assert_eq!(linger(1, 0), Effect::Stack);
    assert!(settings.stack.linger_reset);
    assert_eq!(get(&settings, libc::SOL_SOCKET, option).unwrap().as_bytes(), value(1, 0));
    for (on, seconds, shown) in [(5, 30, (1, 30)), (0, 7, (0, 30))] {
        settings.set(libc::SOL_SOCKET, option, &value(on, seconds), Stage::Idle).unwrap();
        assert!(!settings.stack.linger_reset);
        assert_eq!(get(&settings, libc::SOL_SOCKET, option).unwrap().as_bytes(), value(shown.0, shown.1));
    }
    let short = settings.set(libc::SOL_SOCKET, option, &value(1, 0)[..4], Stage::Idle);
    assert_eq!(short, Err(libc::EINVAL));
}

#[test]
fn wrong_values_and_unknown_options_have_linux_errors() {
    let mut settings = settings();
    for (level, name, value, errno) in [
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 0, libc::EINVAL),
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG, 20, libc::EINVAL),
        (libc::IPPROTO_IP, libc::IP_TTL, 300, libc::EINVAL),
        (libc::IPPROTO_TCP, 4_711, 1, libc::ENOPROTOOPT),
        (libc::SOL_SOCKET, libc::SO_TYPE, 1, libc::ENOPROTOOPT),
        (99, 1, 1, libc::ENOPROTOOPT),
    ] {
        assert_eq!(set(&mut settings, level, name, value), Err(errno), "level {level} name {name}");
    }
    let mut tcp = |name, value: &[u8]| settings.set(libc::IPPROTO_TCP, name, value, Stage::Idle);
    assert_eq!(tcp(libc::TCP_NODELAY, &[1]), Err(libc::EINVAL));
    assert_eq!(tcp(libc::TCP_CONGESTION, b"nosuch"), Err(libc::ENOENT));
    assert_eq!(tcp(libc::TCP_CONGESTION, b"reno\0\0"), Ok(Effect::Stack));
    assert_eq!(&get(&settings, libc::IPPROTO_TCP, libc::TCP_CONGESTION).unwrap().as_bytes()[..5], b"reno\0");
}

#[test]
fn a_few_options_depend_on_how_far_the_socket_has_come() {
    let on = 1i32.to_ne_bytes();
    for (name, value, [idle, listening, connection]) in [
        (libc::TCP_FASTOPEN, on, [true, true, false]),
        (30, on, [true, false, false]),
        (34, on, [true, true, false]),
        (libc::TCP_WINDOW_CLAMP, [0; 4], [true, false, false]),
        (libc::TCP_WINDOW_CLAMP, on, [true, true, true]),
    ] {
        for (stage, granted) in [(Stage::Idle, idle), (Stage::Listening, listening), (Stage::Connection, connection)] {
            let outcome = settings().set(libc::IPPROTO_TCP, name, &value, stage);
            let expected = if granted { Ok(Effect::Remembered) } else { Err(libc::EINVAL) };
            assert_eq!(outcome, expected, "TCP option {name} at {stage:?}");
        }
    }
}
