//! A server's life and the ways it can end.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use throwaway_postgres::{Server, Shutdown, pause};

fn answers(server: &Server) -> bool {
    server.client().query_one("SELECT 1", &[]).is_ok()
}

/// Is the process at work? One that nobody has reaped is not.
fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| !text.contains("State:\tZ"))
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
        .setting("port", "1")
        .setting("application_name", r"it's \ here")
        .hba("host all all 127.0.0.1/32 reject")
        .start()
        .unwrap();
    let mut client = server.client();
    let mut show = |name: &str| -> String {
        let row = client.query_one(&format!("SHOW {name}"), &[]).unwrap();
        row.get(0)
    };
    assert_eq!(show("max_connections"), "7");
    assert_eq!(show("port"), server.port().to_string());
    assert_eq!(show("application_name"), r"it's \ here");
    drop(client);
    assert!(postgres::Client::connect(&server.tcp_url(), postgres::NoTls).is_err());
    server.create_database("a \"second\" one");

    for shutdown in [Shutdown::Smart, Shutdown::Fast, Shutdown::Immediate] {
        server.stop(shutdown).unwrap();
        assert!(!server.is_running() && server.pid().is_none());
        server.start_again().unwrap();
        assert!(answers(&server));
    }
    let folder = server.folder().to_owned();
    let pid = server.pid().unwrap().to_string();
    drop(server);
    assert!(!folder.exists());
    assert!(!lives(&pid));
}

#[test]
fn a_failed_start_tells_why_and_leaves_nothing() {
    let error = Server::builder()
        .setting("max_connections", "many")
        .start()
        .unwrap_err()
        .to_string();
    assert!(error.contains("max_connections"), "{error}");
}

#[test]
fn a_drop_does_not_wait_for_paused_processes() {
    let server = Server::start().unwrap();
    let mut client = server.client();
    let backend: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    pause(backend);
    pause(server.pid().unwrap());
    let folder = server.folder().to_owned();
    let start = Instant::now();
    drop(server);
    // Well before the guardian would kill.
    assert!(start.elapsed() < Duration::from_secs(8));
    assert!(!lives(&backend.to_string()));
    assert!(!folder.exists());
}

#[test]
fn a_server_that_died_is_not_running() {
    let server = Server::start().unwrap();
    let pid = Pid::from_raw(server.pid().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::QUIT).unwrap();
    eventually(|| !server.is_running());
    server.start_again().unwrap();
    assert!(answers(&server));
}

/// Runs another test in a process of its own and has `end` end that, once it has a server.
fn leaves_nothing(mode: &str, end: impl Fn(Pid)) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holds_a_server", "--ignored", "--nocapture"])
        .env("LIFE", mode)
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept to the end: the child may have more to print.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("server ").map(str::to_owned))
        .unwrap();
    let (pid, folder) = line.split_once(' ').unwrap();
    end(Pid::from_child(&child));
    child.wait().unwrap();
    eventually(|| !lives(pid) && !Path::new(folder).exists());
}

#[test]
fn a_killed_process_leaves_nothing() {
    leaves_nothing("wait", |child| {
        kill_process_group(child, Signal::KILL).unwrap();
    });
}

#[test]
fn an_interrupted_process_leaves_nothing() {
    leaves_nothing("wait", |child| {
        kill_process_group(child, Signal::INT).unwrap();
    });
}

#[test]
fn a_server_in_a_static_leaves_nothing() {
    leaves_nothing("exit", |_| {});
}

#[test]
#[ignore = "the child of other tests"]
#[allow(clippy::print_stdout)]
fn holds_a_server() {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let Ok(mode) = std::env::var("LIFE") else {
        return;
    };
    let server = SERVER.get_or_init(|| Server::start().unwrap());
    println!(
        "\nserver {} {}",
        server.pid().unwrap(),
        server.folder().display()
    );
    if mode == "wait" {
        std::thread::park_timeout(Duration::from_secs(60));
    }
}
