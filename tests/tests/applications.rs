//! Unmodified programs under Persona against unmodified programs on the host kernel, in strict mode: a socket that
//! stayed on the host would be an error, and the kernel's TCP counters of that namespace stay at zero.

use persona_tests::topology::{OUR_ADDRESS, PEER_ADDRESS};
use persona_tests::{Engine, Link, Running, Side, Ssh, Topology};
use std::path::Path;

const FILE_BYTES: usize = 8 << 20;

struct Ground {
    // Declared in the order in which they have to go.
    engine: Engine,
    topology: Topology,
    directory: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let topology = Topology::new(Link::default()).unwrap();
        let engine = Engine::start(&topology, "xdp").unwrap();
        let directory = tempfile::Builder::new().prefix("persona-apps-").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(directory.path().join("file"), content()).unwrap();
        Self { engine, topology, directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// A program under Persona that runs until dropped, once it listens on `port`.
    fn serve(&self, program: &[&str], port: u16) -> Running {
        let running = self.topology.spawn(Side::Persona(&self.engine), program).unwrap();
        if let Err(error) = self.engine.wait_for_listener(port) {
            let end = running.finish(0);
            panic!("{program:?}: {error:#}; {}", end.map_or_else(|error| error.to_string(), |end| end.stderr));
        }
        running
    }

    fn serve_at_peer(&self, program: &[&str], port: u16) -> Running {
        let running = self.topology.spawn(Side::Peer, program).unwrap();
        self.topology.wait_for_peer_listener(port).unwrap();
        running
    }

    fn persona(&self, program: &[&str]) -> String {
        self.topology.succeed(Side::Persona(&self.engine), program, 90).unwrap().stdout
    }

    fn peer(&self, program: &[&str]) -> String {
        self.topology.succeed(Side::Peer, program, 90).unwrap().stdout
    }

    fn nginx_config(&self, address: &str) -> String {
        let at = self.directory.path().display();
        let text = format!(
            "daemon off; worker_processes 2; pid {at}/nginx.pid; error_log {at}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; server {{ listen {address}:8080; root {at}; }} }}\n"
        );
        let path = self.path("nginx.conf");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn check(self) {
        self.topology.assert_kernel_saw_no_tcp().unwrap();
    }
}

/// Bytes that no two positions of a page share.
fn content() -> Vec<u8> {
    (0..FILE_BYTES as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn same(path: &str) {
    assert!(std::fs::read(Path::new(path)).unwrap() == content(), "{path} differs from what was served");
}

fn http_server(directory: &str, address: &str) -> [String; 8] {
    ["python3", "-m", "http.server", "--bind", address, "--directory", directory, "8080"].map(str::to_owned)
}

#[test]
fn curl_and_wget_fetch_from_the_kernels_server() {
    let ground = Ground::new();
    let server = http_server(&ground.path(""), PEER_ADDRESS);
    let _server = ground.serve_at_peer(&server.each_ref().map(String::as_str), 8080);
    let url = format!("http://{PEER_ADDRESS}:8080/file");
    ground.persona(&["curl", "-sSf", "-o", &ground.path("curl"), &url]);
    same(&ground.path("curl"));
    ground.persona(&["wget", "-q", "-O", &ground.path("wget"), &url]);
    same(&ground.path("wget"));
    // Several at once, over curl's own multi interface.
    let outputs = [0, 1, 2, 3].map(|nth| ground.path(&format!("multi{nth}")));
    let mut program = vec!["curl", "-sSf", "--parallel"];
    for output in &outputs {
        program.extend(["-o", output, &url]);
    }
    ground.persona(&program);
    outputs.iter().for_each(|output| same(output));
    ground.check();
}

#[test]
fn nginx_with_two_workers_serves_the_kernels_clients() {
    let ground = Ground::new();
    let config = ground.nginx_config(OUR_ADDRESS);
    let _server = ground.serve(&["nginx", "-c", &config], 8080);
    let url = format!("http://{OUR_ADDRESS}:8080/file");
    for nth in 0..4 {
        let output = ground.path(&format!("out{nth}"));
        ground.peer(&["curl", "-sSf", "-o", &output, &url]);
        same(&output);
    }
    let load = ground.peer(&["wrk", "-t1", "-c32", "-d2", &format!("http://{OUR_ADDRESS}:8080/nginx.conf")]);
    assert!(!load.contains("Socket errors") && !load.contains("Non-2xx"), "{load}");
    ground.check();
}

#[test]
fn python_http_server_serves_the_kernels_curl() {
    let ground = Ground::new();
    let server = http_server(&ground.path(""), OUR_ADDRESS);
    let _server = ground.serve(&server.each_ref().map(String::as_str), 8080);
    let output = ground.path("out");
    ground.peer(&["curl", "-sSf", "-o", &output, &format!("http://{OUR_ADDRESS}:8080/file")]);
    same(&output);
    ground.check();
}

#[test]
fn redis_serves_its_benchmark_in_both_roles() {
    for under_persona in [true, false] {
        let ground = Ground::new();
        let address = if under_persona { OUR_ADDRESS } else { PEER_ADDRESS };
        let server =
            ["redis-server", "--bind", address, "--save", "", "--protected-mode", "no", "--dir", &ground.path("")];
        let benchmark = [
            "redis-benchmark",
            "-h",
            address,
            "-n",
            "10000",
            "-c",
            "20",
            "-d",
            "1000",
            "-t",
            "set,get,lpush",
            "-q",
            "--csv",
        ];
        let (_server, report) = if under_persona {
            (ground.serve(&server, 6379), ground.peer(&benchmark))
        } else {
            (ground.serve_at_peer(&server, 6379), ground.persona(&benchmark))
        };
        for test in ["SET", "GET", "LPUSH"] {
            assert!(report.contains(&format!("\"{test}\"")), "{report}");
        }
        ground.check();
    }
}

#[test]
fn iperf3_runs_in_both_roles_and_directions() {
    for under_persona in [true, false] {
        let ground = Ground::new();
        let address = if under_persona { OUR_ADDRESS } else { PEER_ADDRESS };
        // IPv6 sockets stay on the host in this release, so the server is told to listen on IPv4.
        let server = ["iperf3", "-s", "-4", "-B", address];
        let _server = if under_persona { ground.serve(&server, 5201) } else { ground.serve_at_peer(&server, 5201) };
        for reverse in [false, true] {
            let mut client = vec!["iperf3", "-c", address, "-n", "32M", "--json"];
            client.extend(reverse.then_some("-R"));
            let report = iperf3_report(&ground, under_persona, &client);
            // With -n the receiver's count ends when the sender is done, whatever is under way then.
            assert!(report["end"]["sum_received"]["bytes"].as_u64().unwrap() >= 16 << 20, "{report}");
        }
        ground.check();
    }
}

/// The report of a client; iperf3's server refuses whoever comes before it has put the last test away.
fn iperf3_report(ground: &Ground, at_peer: bool, client: &[&str]) -> serde_json::Value {
    for _ in 0..50 {
        let side = if at_peer { Side::Peer } else { Side::Persona(&ground.engine) };
        let end = ground.topology.spawn(side, client).unwrap().finish(60).unwrap();
        let report: serde_json::Value = serde_json::from_str(&end.stdout).unwrap();
        match report["error"].as_str() {
            None => return report,
            Some(error) if error.contains("busy") || error.contains("refused") => {}
            Some(error) => panic!("{client:?}: {error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{client:?}: the server stays busy: {}", ground.engine.json(&["sockets"]).unwrap())
}

#[test]
fn ssh_client_runs_a_command_on_the_kernels_sshd() {
    let ground = Ground::new();
    let ssh = Ssh::new().unwrap();
    let _server = ssh.serve(&ground.topology, Side::Peer, PEER_ADDRESS, 2222).unwrap();
    let client = ssh.client(PEER_ADDRESS, 2222, "head -c 3000000 /dev/zero | wc -c; head -c 3000000 /dev/zero");
    let said = ground.persona(&client.each_ref().map(String::as_str));
    assert_eq!(said.len(), "3000000\n".len() + 3_000_000);
    ground.check();
}
