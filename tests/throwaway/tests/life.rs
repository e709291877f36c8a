//! A server's life and the two ways it can end.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use throwaway_postgres::{Server, Shutdown};

fn answers(server: &Server) -> bool {
    server.client().query_one("SELECT 1", &[]).is_ok()
}

fn eventually(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !what() {
        assert!(Instant::now() < deadline, "it did not happen in a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn starts_stops_restarts_and_leaves_nothing() {
    let server = Server::builder()
        .setting("max_connections", "7")
        .start()
        .unwrap();
    let max: String = server
        .client()
        .query_one("SHOW max_connections", &[])
        .unwrap()
        .get(0);
    assert_eq!(max, "7");
    for shutdown in [Shutdown::Smart, Shutdown::Fast, Shutdown::Immediate] {
        server.stop(shutdown).unwrap();
        assert!(!server.is_running());
        server.start_again().unwrap();
        assert!(answers(&server));
    }
    let folder = server.folder().to_owned();
    let pid = server.pid().unwrap();
    drop(server);
    assert!(!folder.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_killed_process_leaves_nothing() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "holds_a_server_until_killed",
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("server ").map(str::to_owned))
        .unwrap();
    let (pid, folder) = line.split_once(' ').unwrap();
    let (process, folder) = (format!("/proc/{pid}"), Path::new(folder));
    assert!(Path::new(&process).exists() && folder.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    eventually(|| !Path::new(&process).exists() && !folder.exists());
}

#[test]
#[ignore = "the child of another test"]
#[allow(clippy::print_stdout)]
fn holds_a_server_until_killed() {
    let server = Server::start().unwrap();
    println!(
        "\nserver {} {}",
        server.pid().unwrap(),
        server.folder().display()
    );
    std::thread::park_timeout(Duration::from_secs(60));
}
