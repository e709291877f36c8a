//! A server whose disk is full.

use std::fs::{self, File};
use std::io::{self, Write};
use std::time::Duration;

use distlock::{ErrorKind, Manager};
use serial_test::serial;
use throwaway_postgres::{Server, Shutdown};

use crate::support::*;

/// A file that fills the disk until it is dropped.
struct Ballast(std::path::PathBuf);

impl Ballast {
    fn fill(server: &Server) -> Ballast {
        let path = server.folder().join("data/ballast");
        let mut file = File::create(&path).unwrap();
        let full = loop {
            if let Err(error) = file.write_all(&[0; 1 << 16]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        Ballast(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

#[test]
#[serial]
fn locks_need_no_disk_and_tokens_never_go_back() {
    let server = or_skip!(
        Server::builder()
            .disk(160)
            .setting("min_wal_size", "32MB")
            .setting("max_wal_size", "32MB")
            .start()
    );
    let _clean = clean_on(&server);
    let plain = Manager::connect(&server.url()).unwrap();
    let fenced = Manager::builder(&server.url())
        .fencing("public.distlock_token")
        .reconnect_backoff(Duration::from_millis(10), Duration::from_millis(100))
        .connect()
        .unwrap();
    let held = fenced.lock("held").unwrap();
    let ballast = Ballast::fill(&server);

    let other = Manager::connect(&server.url()).unwrap();
    for n in 0..100 {
        let guard = plain.lock((n, n)).unwrap();
        assert!(other.try_lock((n, n)).unwrap().is_none());
        guard.unlock().unwrap();
    }
    drop(other);

    // A token needs a few bytes of WAL, and eventually more space than there is; then the server
    // goes down.
    let mut last = fenced.lock("token").unwrap().token().unwrap();
    assert!(last > held.token().unwrap());
    let mut client = server.client();
    while client.batch_execute("SELECT pg_switch_wal()").is_ok() {
        match fenced.lock("token") {
            Ok(guard) => last = guard.token().unwrap(),
            Err(_) => break,
        }
    }
    eventually(|| held.is_lost());
    let error = fenced.lock("token").unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Fencing),
        "{error:?}"
    );

    drop(ballast);
    // The server is restarted as well: PostgreSQL 18 does not always end by itself when there is
    // no space to recover.
    server.stop(Shutdown::Immediate).ok();
    eventually(|| {
        server.start_again().ok();
        match fenced.lock("token") {
            Ok(guard) => {
                assert!(guard.token().unwrap() > last);
                true
            }
            Err(_) => false,
        }
    });
    eventually(|| plain.lock("token").is_ok());
}
