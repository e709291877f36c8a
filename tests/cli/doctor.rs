//! `distlock doctor`, and what it finds.

use std::fs;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use throwaway_postgres::{PoolMode, Pooler, Proxy, Server};

use crate::support::{
    Running, children, distlock, distlock_at, eventually, is_stopped, or_skip, output, server,
    state,
};

/// Its exit code, and its lines without spaces that only align.
fn doctor_at(url: &str) -> (i32, Vec<String>) {
    let (code, text, error) = output(distlock_at(url).arg("doctor"));
    assert!(error.is_empty() || code > 1, "{error}");
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    (code, text.lines().map(line).collect())
}

#[track_caller]
fn assert_says(lines: &[String], begin: &str) {
    let is_there = lines.iter().any(|line| line.starts_with(begin));
    assert!(is_there, "{begin}: {lines:#?}");
}

/// A role that may log in, and no more.
fn role(server: &Server, name: &str, options: &str) -> String {
    let create = format!("CREATE ROLE {name} LOGIN {options}");
    server.client().batch_execute(&create).unwrap();
    server
        .url()
        .replace("user=postgres", &format!("user={name}"))
}

#[test]
fn a_plain_server_is_found_to_be_well() {
    let (code, lines) = doctor_at(&server().url());
    assert_eq!(code, 0, "{lines:#?}");
    for check in [
        "connection",
        "path",
        "server PostgreSQL",
        "TLS off, and not needed",
        "evict",
        "holders",
        "lock table",
        "connections",
        "timeouts",
        "lease the server gives the lock of a silent session back after",
    ] {
        assert_says(&lines, &format!("ok {check}"));
    }
}

#[test]
fn tls_is_seen_where_it_is() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let server = Server::builder()
        .setting("ssl", "on")
        .file("server.crt", &certificate.cert.pem())
        .file("server.key", &certificate.signing_key.serialize_pem())
        .start()
        .unwrap();
    for (mode, says) in [
        ("prefer", "ok TLS on"),
        ("require", "ok TLS on"),
        ("disable", "note TLS off: "),
    ] {
        let (code, lines) = doctor_at(&format!("{} sslmode={mode}", server.tcp_url()));
        assert_eq!(code, 0, "{lines:#?}");
        assert_says(&lines, says);
    }
    // With what the driver alone does not know.
    let roots = server.folder().join("roots.pem");
    fs::write(&roots, certificate.cert.pem()).unwrap();
    let verified = format!("sslmode=verify-ca sslrootcert={}", roots.display());
    let (code, lines) = doctor_at(&format!("{} {verified}", server.tcp_url()));
    assert_eq!(code, 0, "{lines:#?}");
    assert_says(&lines, "ok TLS on");
}

#[test]
fn what_a_role_may_not_is_noted() {
    let (code, lines) = doctor_at(&role(server(), "doctors_weak", ""));
    assert_eq!(code, 0, "{lines:#?}");
    assert_says(&lines, "note evict");
    assert_says(&lines, "note holders");
    assert_says(&lines, "ok lease");
}

#[test]
fn the_environment_is_read_as_psql_does() {
    server().create_database("doctors");
    let url = server().url().replace(" dbname=postgres", "");
    let (code, text, _) = output(distlock_at(&url).arg("doctor").env("PGDATABASE", "doctors"));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(", database doctors, role postgres"), "{text}");
}

#[test]
fn a_pooler_in_transaction_mode_is_a_fault() {
    let pooler = or_skip!(Pooler::before(server(), PoolMode::Transaction, 5));
    let (code, lines) = doctor_at(&pooler.url());
    assert_eq!(code, 1, "{lines:#?}");
    assert_says(&lines, "FAIL pooler");
}

#[test]
fn a_pool_in_session_mode_is_well() {
    let pooler = or_skip!(Pooler::before(server(), PoolMode::Session, 5));
    let (code, lines) = doctor_at(&pooler.url());
    assert_eq!(code, 0, "{lines:#?}");
    assert_says(&lines, "ok lease");
}

/// A balancer has sent the manager's two connections to one server, and the doctor's to another.
#[test]
fn what_is_true_of_another_server_is_not_told() {
    let other = Server::start().unwrap();
    let targets = [server().port(), server().port(), other.port()];
    let balancer = Proxy::among(&targets).unwrap();
    let (_, lines) = doctor_at(&balancer.url());
    assert_says(
        &lines,
        "note facts TLS, rights, room and limits are not looked at: a second connection reaches \
         another server",
    );
}

#[test]
fn a_standby_is_a_fault() {
    let primary = Server::start().unwrap();
    let standby = or_skip!(Server::builder().standby_of(&primary).start());
    let (code, lines) = doctor_at(&standby.url());
    assert_eq!(code, 1, "{lines:#?}");
    assert_says(&lines, "FAIL primary");
}

#[test]
fn few_connections_are_a_fault() {
    let url = role(server(), "doctors_two", "CONNECTION LIMIT 2");
    let (code, lines) = doctor_at(&url);
    assert_eq!(code, 1, "{lines:#?}");
    assert_says(&lines, "FAIL connections 2 of the role's 2 are left");
    assert_says(&lines, "ok lease");
    let url = role(server(), "doctors_one", "CONNECTION LIMIT 1");
    let (code, lines) = doctor_at(&url);
    assert_eq!(code, 1, "{lines:#?}");
    assert_says(&lines, "FAIL connections there is none beside a manager's");
    let url = role(server(), "doctors_three", "CONNECTION LIMIT 3");
    let (code, lines) = doctor_at(&url);
    assert_eq!(code, 0, "{lines:#?}");
}

#[test]
fn a_full_lock_table_is_a_fault() {
    let server = Server::builder()
        .setting("max_connections", "20")
        .setting("max_locks_per_transaction", "10")
        .start()
        .unwrap();
    let mut client = server.client();
    let take = "SELECT pg_advisory_lock(n) FROM generate_series(1, 190) AS n";
    client.query(take, &[]).unwrap();
    let (code, lines) = doctor_at(&server.url());
    assert_eq!(code, 1, "{lines:#?}");
    assert_says(&lines, "FAIL lock table");
}

#[test]
fn a_role_with_a_very_short_timeout_is_a_fault() {
    let url = role(server(), "doctors_hasty", "");
    let set = "ALTER ROLE doctors_hasty SET statement_timeout = 99";
    server().client().batch_execute(set).unwrap();
    let (code, lines) = doctor_at(&url);
    assert_eq!(code, 1, "{lines:#?}");
    assert_says(&lines, "FAIL timeouts statement_timeout is 99 ms");
}

#[test]
fn without_a_database_it_is_an_error() {
    let (code, lines) = doctor_at("host=/nowhere");
    assert_eq!((code, lines.len()), (69, 0));
    let (code, lines) = doctor_at(&server().url().replace("user=postgres", "user=nobody"));
    assert_eq!((code, lines.len()), (78, 0));
}

/// The silent process is stopped, and would be left behind so.
#[test]
fn a_doctor_that_is_killed_leaves_no_process_behind() {
    let mut doctor = Running::start(distlock().arg("doctor").stdout(Stdio::null()));
    let pid = doctor.0.id();
    let mut child = String::new();
    eventually(|| {
        child = children(pid);
        is_stopped(child.trim())
    });
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    assert_eq!(doctor.exit_code(), 128 + 9);
    eventually(|| has_ended(child.trim()));
}

/// True also while nobody has asked for its exit code.
fn has_ended(pid: &str) -> bool {
    matches!(state(pid), None | Some('Z'))
}
