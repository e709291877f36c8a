//! How a manager copes with its process: an asynchronous runtime on the caller's thread, and no
//! file descriptors left.

use std::env;
use std::fs::File;
use std::process::Command;
use std::time::Duration;

use distlock::{ErrorKind, Manager};
use throwaway_postgres::Server;

use crate::support::*;

/// For the process that runs out of descriptors: which server to use.
const URL: &str = "DISTLOCK_TEST_URL";

#[apply(isolated_test)]
fn a_late_connect_does_not_end_inside_a_callers_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut connected, mut late) = (0, 0);
        for n in 0..150 {
            // From far too short to long enough.
            let timeout = Duration::from_micros(1 + n * n * 2);
            match builder().connect_timeout(timeout).connect() {
                Ok(mgr) => {
                    drop(mgr.lock("in time").unwrap());
                    connected += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                    late += 1;
                }
            }
        }
        // The last ones have 44 ms.
        assert!(late > 0, "{connected} were in time");
        let mgr = builder().connect().unwrap();
        terminate_sessions_elsewhere();
        eventually(|| mgr.lock("again").is_ok());
    });
}

/// Calls the helper on another thread, because it must not run inside a runtime.
fn terminate_sessions_elsewhere() {
    let terminate = || terminate_sessions(&mut server().client());
    finish(vec![std::thread::spawn(terminate)]);
}

#[apply(isolated_test)]
fn a_process_without_descriptors_is_told_and_recovers(server: Server) {
    let child = Command::new("sh")
        .arg("-c")
        .arg("ulimit -n 64; exec \"$0\" \"$@\"")
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .arg("surroundings::in_a_process_with_few_descriptors")
        .env(URL, server.url())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
#[ignore = "run by a_process_without_descriptors_is_told_and_recovers, in a process of its own"]
fn in_a_process_with_few_descriptors() {
    let Ok(url) = env::var(URL) else { return };
    let builder = Manager::builder(&url)
        .reconnect_backoff(Duration::from_millis(2), Duration::from_millis(5));
    let mgr = builder.clone().connect().unwrap();
    let guard = mgr.lock("held").unwrap();
    // For any number left: too few for the driver's runtime, too few for the socket, or enough.
    for left in 0..12 {
        // Other threads close the descriptors of the last connect.
        eventually(|| threads().len() == 2);
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        let mut taken: Vec<File> = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            taken.push(file);
        }
        taken.truncate(taken.len() - left);
        match builder.clone().connect() {
            Ok(second) => second.close().unwrap(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                assert!(error.is_transient());
                assert!(
                    format!("{error:?}")
                        .to_lowercase()
                        .contains("too many open files"),
                    "{error:?}"
                );
            }
        }
        terminate_sessions(&mut client);
        if left == 0 {
            let mut told = String::new();
            eventually(|| {
                told = mgr
                    .try_lock("held")
                    .map_or_else(|error| error.to_string(), |_| told.clone());
                told.contains("too many open files")
            });
        }
        drop((taken, client));
        eventually(|| mgr.lock("held again").is_ok());
    }
    assert!(guard.is_lost());
}
