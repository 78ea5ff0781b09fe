//! On this machine, as root: each attempt comes to a result, and what is put in the way is found.

use super::*;
use crate::host::fixture::{in_namespace, ip, run};
use persona_ebpf::{Object, Sizes};

fn about<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.subject == subject).unwrap_or_else(|| panic!("{subject} in {findings:?}"))
}

#[test]
fn kernel_versions_are_compared() {
    assert_eq!(Kernel::parse("6.1.0-18-amd64"), Some(Kernel(6, 1)));
    assert_eq!(Kernel::parse("5.15.167.4-microsoft-standard"), Some(Kernel(5, 15)));
    assert_eq!(Kernel::parse("6"), None);
    assert_eq!(Kernel(6, 6).lacks("tcx", Kernel(6, 6)), None);
    assert_eq!(Kernel(6, 1).lacks("tcx", Kernel(6, 6)).unwrap(), "tcx needs Linux 6.6, this is 6.1");
    assert!(Kernel::running() > Kernel(3, 0));
}

#[test]
fn as_root_everything_that_is_needed_is_there() {
    let findings = host();
    for subject in ["privileges", "eBPF programs", "packet ports", "AF_XDP sockets", "packet sockets"] {
        assert_ne!(about(&findings, subject).verdict, Verdict::Missing, "{findings:?}");
    }
    assert_eq!(about(&findings, "BPF compiler").verdict, Verdict::Good);
    for finding in &findings {
        assert!(!finding.found.is_empty());
        if finding.verdict == Verdict::Missing {
            assert!(finding.mend.is_some(), "{finding:?}");
        }
    }
    assert!(serde_json::to_string(&findings).unwrap().contains("\"verdict\":\"good\""));
}

#[test]
fn without_privileges_it_says_so_and_how_to_get_them() {
    std::thread::spawn(|| {
        // SAFETY: system calls on credentials of the calling thread alone, no memory involved.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534), 0);
        }
        let findings = host();
        for subject in ["privileges", "eBPF programs", "packet ports", "AF_XDP sockets", "packet sockets"] {
            let finding = about(&findings, subject);
            assert_eq!(finding.verdict, Verdict::Missing, "{finding:?}");
            assert!(finding.mend.as_ref().unwrap().contains("root"), "{finding:?}");
        }
        assert!(about(&findings, "privileges").found.contains("CAP_NET_ADMIN"));
        assert_eq!(worst(&findings), Verdict::Missing);
    })
    .join()
    .unwrap();
}

#[test]
fn an_interface_tells_its_modes_and_what_is_in_the_way() {
    in_namespace(|| {
        let findings = interface("us").unwrap();
        assert_eq!(about(&findings, "us").found, "veth, MTU 1500, up");
        assert_eq!(about(&findings, "XDP program").verdict, Verdict::Good);
        assert!(about(&findings, "AF_XDP mode").found.starts_with("in the driver, one copy"));
        assert_eq!(about(&findings, "firewall").verdict, Verdict::Good);
        assert!(about(&findings, "offloads").found.contains("TSO"));

        let mut object = Object::load(&Sizes::default()).unwrap();
        let (_link, _) = object.attach_xdp("us", false).unwrap();
        run("nft add table inet guard");
        run("nft add chain inet guard input { type filter hook input priority 0 ; policy drop ; }");
        let findings = interface("us").unwrap();
        let owner = about(&findings, "XDP program");
        assert!(owner.verdict == Verdict::Limited && owner.found.contains("persona_xdp"), "{owner:?}");
        assert!(about(&findings, "firewall").found.contains("inet guard input"));

        ip("link set peer down");
        assert_eq!(about(&interface("us").unwrap(), "us").verdict, Verdict::Limited);
        ip("link set us down");
        let down = interface("us").unwrap();
        assert_eq!(about(&down, "us").mend.as_deref(), Some("ip link set dev us up"));
        assert!(matches!(interface("nonesuch"), Err(crate::host::Error::NoInterface { .. })));
        assert_eq!(about(&interface("lo").unwrap(), "lo").verdict, Verdict::Missing);
    });
}

#[test]
fn large_frames_and_odd_queues_are_told() {
    in_namespace(|| {
        ip("link set us mtu 9000");
        let findings = interface("us").unwrap();
        assert_eq!(about(&findings, "large frames").found, "MTU 9000 in several buffers");
        ip("link add wide numrxqueues 4 numtxqueues 4 type veth peer name wide2 numrxqueues 4 numtxqueues 4");
        run("ethtool -L wide rx 4 tx 2");
        let odd = interface("wide").unwrap();
        assert!(about(&odd, "queues").found.contains("so 2 can be used"));
    });
}
