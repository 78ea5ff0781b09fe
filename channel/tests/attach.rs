//! Messages of the session socket: bytes to values and back, and what a refusal says.
#![cfg(not(loom))]

use persona_channel::attach::*;
use persona_channel::layout::ABI_VERSION;
use zerocopy::IntoBytes;

fn refused(hello: &Hello) -> String {
    hello.check().expect_err("must be refused").sentence().to_string()
}

#[test]
fn hello_of_this_build_is_welcome() {
    let hello = Hello::new(77, b"nginx", Some((5, [6, 7])));
    let decoded = Hello::decode(hello.as_bytes()).expect("a whole message");
    assert_eq!(decoded, hello);
    assert_eq!((decoded.program(), decoded.pid, decoded.session, decoded.token), ("nginx", 77, 5, [6, 7]));
    assert!(decoded.check().is_ok());
    assert_eq!(Hello::new(1, b"x", None).session, 0, "a new session");
    assert_eq!(hello.executable(), "");
    assert_eq!(hello.with_executable(b"/usr/sbin/nginx").executable(), "/usr/sbin/nginx");
    let longest = [b'/'; EXECUTABLE];
    assert_eq!(hello.with_executable(&longest).executable().len(), EXECUTABLE);
    // Half a path would match what it should not.
    assert_eq!(hello.with_executable(&[&longest[..], b"/"].concat()).executable(), "");
}

#[test]
fn a_hello_of_another_version_and_length_is_told_the_side_to_update() {
    let hello = Hello::new(77, b"nginx", None);
    let read = |hello: &Hello, length: usize| {
        let bytes = [hello.as_bytes(), &[0; 64]].concat();
        Hello::read(&bytes[..length]).map_err(|refusal| refusal.sentence().to_string())
    };
    let whole = hello.as_bytes().len();
    assert_eq!(read(&hello, whole), Ok(hello));
    for length in [112, whole, whole + 64] {
        let older = read(&Hello { abi: ABI_VERSION - 1, ..hello }, length).unwrap_err();
        assert!(older.contains("update libpersona.so"), "{older}");
        let newer = read(&Hello { abi: ABI_VERSION + 1, ..hello }, length).unwrap_err();
        assert!(newer.contains("update engine"), "{newer}");
    }
    for length in [0, 5, 12, 112, whole + 64] {
        let sentence = read(&hello, length).unwrap_err();
        assert!(sentence.contains("install libpersona.so from the engine's build"), "{sentence}");
    }
}

#[test]
fn messages_of_another_length_are_no_messages() {
    let hello = Hello::new(77, b"nginx", None);
    let bytes = hello.as_bytes();
    assert_eq!(Hello::decode(&bytes[1..]), None);
    assert_eq!(Hello::decode(&[bytes, &[0]].concat()), None);
    assert_eq!(Hello::decode(&[]), None);
    assert_eq!(Answer::decode(&[]), None);
    assert_eq!(Answer::decode(&kind::WELCOME.to_ne_bytes()), None);
    assert_eq!(Answer::decode(&[9; 256]), None);
    assert_eq!(Request::decode(&[0; 64]), None, "no such kind");
}

#[test]
fn a_refusal_names_the_side_to_update() {
    let hello = Hello::new(1, b"curl", None);
    let library_old = refused(&Hello { abi: ABI_VERSION - 1, ..hello });
    assert!(library_old.contains("update libpersona.so"), "{library_old}");
    let engine_old = refused(&Hello { abi: ABI_VERSION + 1, ..hello });
    assert!(engine_old.contains("update engine"), "{engine_old}");
    let other_build = refused(&Hello { socket_size: 1, ..hello });
    assert!(other_build.contains("install libpersona.so"), "{other_build}");
    let other_pages = refused(&Hello { session_pages: 1, ..hello });
    assert!(other_pages.contains("different builds"), "{other_pages}");
    let stranger = refused(&Hello { magic: 0, ..hello });
    assert!(stranger.contains("libpersona.so"), "{stranger}");
    for hello in [Hello { abi: u32::MAX, ..hello }, Hello { socket_size: u32::MAX, session_pages: u32::MAX, ..hello }] {
        let sentence = refused(&hello);
        assert!(sentence.len() < SENTENCE, "the longest sentence is not cut: {sentence}");
    }
}

#[test]
fn answers_and_requests_survive_the_wire() {
    let welcome = Welcome::new(2, 9, [1, 2]);
    assert_eq!(Answer::decode(welcome.as_bytes()), Some(Answer::Welcome(welcome)));
    let grant = Grant::new(&[4, 5, 6]);
    assert_eq!(Answer::decode(grant.as_bytes()), Some(Answer::Grant(grant)));
    assert_eq!(grant.ids(), [4, 5, 6]);
    assert_eq!(Grant::new(&[7; 99]).ids(), [7; ANCHOR_BATCH]);
    assert_eq!(Grant { count: u32::MAX, ..grant }.ids().len(), ANCHOR_BATCH, "a false count is bounded");
    let reported = Request::reason(9, reason::POLICY, b"10.0.0.1:80");
    for request in [Request::anchors(16), Request::doorbell(200), reported, Request::gone(9)] {
        assert_eq!(Request::decode(request.as_bytes()), Some(request));
    }
    assert_eq!(Request::reason(0, reason::POLICY, &[b'x'; 99]).text(), "x".repeat(52));
}

#[test]
fn texts_are_cut_where_they_stop_being_text() {
    let long = Refusal::new(format_args!("{}ä", "x".repeat(SENTENCE - 1)));
    assert_eq!(long.sentence(), "x".repeat(SENTENCE - 1), "half a character is no character");
    let mut lying = Refusal::new(format_args!("port in use"));
    lying.len = u32::MAX;
    assert_eq!(lying.sentence().trim_end_matches('\0'), "port in use");
    assert_eq!(Hello::new(1, b"a\xff\xfeb", None).program(), "a");
}
