//! A database or network that is down: what calls return meanwhile, what the wait costs and how
//! the manager reconnects.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use distlock::{Ended, ErrorKind, Key, Manager, Watch};
use serial_test::serial;
use throwaway_postgres::{Proxy, Server, Shutdown};

use crate::recording::{record, said as logged};
use crate::support::*;

const MS: Duration = Duration::from_millis(1);

#[apply(isolated_test)]
fn every_call_gets_its_own_answer_while_the_server_crashes() {
    let server = Server::start().unwrap();
    let mgr = Manager::connect(&server.url()).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let last_holder = Arc::new(Mutex::new(None::<Watch>));
    let callers = (0..16)
        .map(|n: i64| {
            let (mgr, done) = (mgr.clone(), Arc::clone(&done));
            let last_holder = Arc::clone(&last_holder);
            thread::spawn(move || {
                let mut granted = 0;
                while !done.load(Ordering::SeqCst) {
                    let own = mgr.lock(n);
                    // A reply goes to its own request.
                    assert!(own.is_err() || own.is_ok_and(|guard| guard.key() == &Key::from(n)));
                    let common = match n % 3 {
                        0 => mgr.lock("common").map(Some),
                        1 => mgr.try_lock("common"),
                        _ => mgr.try_lock_for("common", 20 * MS),
                    };
                    let Ok(Some(guard)) = common else { continue };
                    granted += 1;
                    let before = last_holder.lock().unwrap().replace(guard.watch());
                    let alone = before.is_none_or(|watch| watch.ended().is_some());
                    assert!(alone || guard.is_lost(), "two are inside");
                }
                granted
            })
        })
        .collect();
    for _ in 0..5 {
        let before = mgr.stats().acquired;
        server.restart(Shutdown::Immediate).unwrap();
        eventually(|| mgr.stats().acquired > before + 100);
    }
    done.store(true, Ordering::SeqCst);
    assert!(finish(callers).iter().sum::<u32>() > 0);
    drop(mgr.lock("common").unwrap());
}

#[apply(isolated_test)]
fn reconnects_back_off_and_log_little() {
    let proxy = Proxy::to(server()).unwrap();
    let mgr = Manager::builder(&proxy.url())
        .reconnect_backoff(10 * MS, 1000 * MS)
        .wait_while_unavailable(true)
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    record();
    let (start, before) = (Instant::now(), proxy.accepted());
    proxy.refuse(true);
    proxy.cut();
    assert_eq!(guard.watch().wait(), Ended::SessionLost);
    eventually(|| proxy.accepted() == before + 6);
    // 10, 20, 40, 80 and 160 ms, each shortened by up to 25 % random jitter.
    assert!(start.elapsed() >= 232 * MS, "{:?}", start.elapsed());
    let lines = logged();
    assert!(lines.matches("WARN").count() <= 2, "{lines}");
    mgr.close().unwrap();
}

#[apply(isolated_test)]
fn waiting_for_the_database_takes_little_processor_time() {
    let server = Server::start().unwrap();
    let mgr = Manager::builder(&server.url())
        .wait_while_unavailable(true)
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    let waits: Vec<_> = (0..8)
        .map(|_| {
            let mgr = mgr.clone();
            thread::spawn(move || drop(mgr.lock("held").unwrap()))
        })
        .collect();
    eventually(|| mgr.stats().waiting == 8);
    server.stop(Shutdown::Immediate).unwrap();
    assert_eq!(guard.watch().wait(), Ended::SessionLost);
    let (start, before) = (Instant::now(), cpu_time());
    thread::sleep(1000 * MS);
    let (wall, cpu) = (start.elapsed(), cpu_time() - before);
    assert!(cpu < wall / 5, "{cpu:?} of {wall:?}");
    server.start_again().unwrap();
    finish(waits);
}

/// The CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // utime and stime, in hundredths of a second (proc_pid_stat(5)).
    let ticks = fields.split(' ').skip(11).take(2);
    10 * MS
        * ticks
            .map(|field| field.parse::<u32>().unwrap())
            .sum::<u32>()
}

#[apply(isolated_test)]
fn the_password_is_in_no_log_line_error_or_debug_output() {
    let server = Server::builder()
        .hba("host all all 127.0.0.1/32 scram-sha-256")
        .start()
        .unwrap();
    server
        .client()
        .batch_execute("CREATE ROLE app LOGIN PASSWORD 'sesame open'")
        .unwrap();
    record();
    let port = server.port();
    let refused = [
        format!("host=127.0.0.1 port={port} user=app password='sesame no' dbname=postgres"),
        format!("host=127.0.0.1 port={port} user=app password='sesame open' dbname=none"),
        format!("host=127.0.0.1 port={port} user=app password='sesame open"),
        "postgres://app:sesame@127.0.0.1:1:1/postgres".into(),
        "host=127.0.0.1 port=sesame".into(),
        "host=127.0.0.1 sesame".into(),
    ];
    let mut said: Vec<String> = refused
        .iter()
        .map(|url| {
            let builder = Manager::builder(url);
            let debug = format!("{builder:?}");
            let error = builder.connect().unwrap_err();
            debug + &whole(&error)
        })
        .collect();
    let url = format!("host=127.0.0.1 port={port} user=app password='sesame open' dbname=postgres");
    let mgr = Manager::connect(&url).unwrap();
    let guard = mgr.lock("held").unwrap();
    server.stop(Shutdown::Immediate).unwrap();
    assert_eq!(guard.watch().wait(), Ended::SessionLost);
    said.push(format!("{mgr:?} {guard:?} {:?}", guard.watch()));
    said.push(whole(&mgr.lock("away").unwrap_err()));
    said.push(whole(&Manager::connect(&url).unwrap_err()));
    said.push(whole(&guard.unlock().unwrap_err()));
    mgr.close().unwrap();
    said.push(logged());
    let said = said.join("\n").to_lowercase();
    assert!(said.contains("reconnect"), "nothing was logged");
    assert!(!said.contains("sesame"), "{said}");
}

/// The error and its causes, in every form.
fn whole(error: &dyn std::error::Error) -> String {
    let source = error.source().map(whole).unwrap_or_default();
    format!("{error} {error:?} {error:#?} {source}\n")
}

#[apply(isolated_test)]
fn a_reconnect_may_take_longer_than_half_a_second() {
    let proxy = Proxy::to(server()).unwrap();
    let mgr = Manager::builder(&proxy.url())
        .wait_while_unavailable(true)
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    proxy.delay_connects(800 * MS);
    proxy.cut();
    assert_eq!(guard.watch().wait(), Ended::SessionLost);
    assert!(mgr.try_lock_for("held", FOREVER / 4).unwrap().is_some());
    assert_eq!(mgr.stats().reconnects, 1);
}

#[apply(isolated_test)]
fn a_smart_stop_waits_for_the_manager_and_takes_no_lock_from_it(server: Server) {
    let mgr = Manager::connect(&server.url()).unwrap();
    let guard = mgr.lock("smart").unwrap();
    let watch = guard.watch();
    thread::scope(|scope| {
        let stop = scope.spawn(|| server.stop(Shutdown::Smart));
        // From now on there are no new sessions; the old one continues.
        eventually(|| server.log().contains("received smart shutdown request"));
        let error = Manager::connect(&server.url()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        drop(mgr.lock("another").unwrap());
        assert!(!watch.is_lost());
        guard.unlock().unwrap();
        mgr.close().unwrap();
        stop.join().unwrap().unwrap();
    });
    assert_eq!(watch.ended(), Some(Ended::Unlocked));
}

#[apply(isolated_test)]
fn a_reconnect_waits_for_a_free_slot(server: Server) {
    let mut client = server.client();
    client.batch_execute("CREATE ROLE app LOGIN").unwrap();
    let mgr = Manager::builder(&server.url().replace("user=postgres", "user=app"))
        .reconnect_backoff(5 * MS, 20 * MS)
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    client
        .batch_execute("ALTER ROLE app CONNECTION LIMIT 0")
        .unwrap();
    terminate_sessions(&mut client);
    eventually(|| guard.is_lost());
    let mut refused = String::new();
    eventually(|| {
        let error = mgr.try_lock("held").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        refused = error.to_string();
        assert!(refused.starts_with("the database is away: "), "{refused}");
        refused.contains("no connection slot free")
    });
    // A deadline that passes meanwhile does not hide the cause.
    let error = mgr.try_lock_for("held", 5 * MS).unwrap_err();
    assert!(
        error.to_string().contains("no connection slot free"),
        "{error}"
    );
    client
        .batch_execute("ALTER ROLE app CONNECTION LIMIT -1")
        .unwrap();
    eventually(|| mgr.try_lock("held").is_ok_and(|guard| guard.is_some()));
}

/// A manager of the role `app`, whose password this is.
fn as_app(server: &Server, database: &str) -> distlock::Builder {
    let port = server.port();
    Manager::builder(&format!(
        "host=127.0.0.1 port={port} user=app password='open sesame' dbname={database}"
    ))
    .reconnect_backoff(5 * MS, 20 * MS)
}

#[test]
#[serial]
fn callers_are_told_that_a_reconnects_login_was_refused() {
    let server = Server::builder()
        .hba("host all app 127.0.0.1/32 scram-sha-256")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    server.create_database("theirs");
    let mut client = server.client();
    let role = "CREATE ROLE app LOGIN PASSWORD 'open sesame'";
    client.batch_execute(role).unwrap();
    for (refuse, word, mend) in [
        (
            "ALTER ROLE app PASSWORD 'another'",
            "password is wrong",
            "ALTER ROLE app PASSWORD 'open sesame'",
        ),
        ("DROP ROLE app", "the password is wrong", role),
        (
            "ALTER ROLE app NOLOGIN",
            "may not log in",
            "ALTER ROLE app LOGIN",
        ),
        (
            "REVOKE CONNECT ON DATABASE theirs FROM PUBLIC",
            "may not connect to this database",
            "GRANT CONNECT ON DATABASE theirs TO PUBLIC",
        ),
        (
            "DROP DATABASE theirs WITH (FORCE)",
            "the database does not exist",
            "CREATE DATABASE theirs",
        ),
    ] {
        let mgr = as_app(&server, "theirs").connect().unwrap();
        let patient = as_app(&server, "theirs")
            .wait_while_unavailable(true)
            .connect()
            .unwrap();
        // An idle manager would not detect the loss.
        let guards = [mgr.lock("ours").unwrap(), patient.lock("theirs").unwrap()];
        client.batch_execute(refuse).unwrap();
        terminate_sessions(&mut client);
        let is_told = |error: &distlock::Error| {
            error.kind() == ErrorKind::Login && error.to_string().contains(word)
        };
        // No call returns another error: calls wait for the outcome of the first reconnect.
        eventually(|| {
            let error = mgr.try_lock("refused").err();
            assert!(error.as_ref().is_none_or(is_told), "{refuse}: {error:?}");
            error.is_some()
        });
        // A patient call waits, and returns the same error when its time is over.
        eventually(|| patient.health().cause.is_some_and(|cause| is_told(&cause)));
        let error = patient.try_lock_for("refused", 20 * MS).unwrap_err();
        assert!(is_told(&error), "{refuse}: {error:?}");
        assert!(!error.is_transient());
        let waiting = {
            let patient = patient.clone();
            thread::spawn(move || drop(patient.lock("refused").unwrap()))
        };
        eventually(|| patient.stats().waiting == 1);
        client.batch_execute(mend).unwrap();
        finish(vec![waiting]);
        eventually(|| mgr.lock("refused").is_ok());
        assert!(guards.iter().all(|guard| guard.is_lost()));
    }
}

#[apply(isolated_test)]
fn callers_wait_for_the_outcome_of_the_first_reconnect() {
    let proxy = Proxy::to(server()).unwrap();
    let mgr = Manager::connect(&proxy.url()).unwrap();
    let guard = mgr.lock("held").unwrap();
    // A slow reconnect: calls do not fail after one second.
    proxy.delay_connects(1500 * MS);
    proxy.cut();
    assert_eq!(guard.watch().wait(), Ended::SessionLost);
    assert!(mgr.try_lock("held").unwrap().is_some());
    assert_eq!(mgr.stats().reconnects, 1);
}

#[apply(isolated_test)]
fn callers_are_told_when_the_first_reconnect_has_failed() {
    let proxy = Proxy::to(server()).unwrap();
    let mgr = Manager::builder(&proxy.url())
        .connect_timeout(4000 * MS)
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    proxy.silence(true);
    proxy.cut();
    assert_eq!(guard.watch().wait(), Ended::SessionLost);
    // A deadline of the call's own ends the wait earlier.
    let error = mgr.try_lock_for("held", 20 * MS).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the connection to the database was lost"),
        "{error}"
    );
    let error = mgr.lock("held").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().contains("within the connect timeout"),
        "{error}"
    );
    assert!(error.is_transient());
    proxy.silence(false);
}
