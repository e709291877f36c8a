//! A primary and its synchronous standby, which takes its place.

use std::time::Duration;

use distlock::{Ended, ErrorKind, Manager};
use serial_test::serial;
use throwaway_postgres::{Server, Shutdown};

use crate::support::*;

/// A primary that waits for its standby at every commit.
fn pair() -> (Server, Server) {
    let primary = Server::start().unwrap();
    let standby = Server::builder().standby_of(&primary).start().unwrap();
    primary.await_standby();
    (primary, standby)
}

fn url_of(servers: &[&Server]) -> String {
    let folders: Vec<_> = servers
        .iter()
        .map(|server| server.folder().display().to_string())
        .collect();
    let ports: Vec<_> = servers
        .iter()
        .map(|server| server.port().to_string())
        .collect();
    format!(
        "host={} port={} user=postgres dbname=postgres",
        folders.join(","),
        ports.join(",")
    )
}

#[test]
#[serial]
fn a_standby_is_refused() {
    let (primary, standby) = pair();
    let _clean = clean_on(&primary);
    let error = Manager::connect(&standby.url()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Standby, "{error}");
    // Whatever the order of the hosts.
    for hosts in [[&primary, &standby], [&standby, &primary]] {
        let mgr = Manager::connect(&url_of(&hosts)).unwrap();
        let _guard = mgr.lock("primary").unwrap();
        assert_eq!(advisory_locks(&mut primary.client()).len(), 1);
    }
}

#[test]
#[serial]
fn the_manager_goes_over_to_the_new_primary_and_tokens_keep_growing() {
    let (primary, standby) = pair();
    let _clean = clean_on(&standby);
    let url = url_of(&[&primary, &standby]);
    let [one, two] = [(); 2].map(|()| {
        Manager::builder(&url)
            .fencing("public.distlock_token")
            .reconnect_backoff(Duration::from_millis(10), Duration::from_millis(100))
            .connect()
            .unwrap()
    });
    let mut last = 0;
    for mgr in [&one, &two].iter().cycle().take(100) {
        last = mgr.lock("leader").unwrap().token().unwrap();
    }
    let guard = one.lock("leader").unwrap();
    let watch = guard.watch();
    assert!(guard.token().unwrap() > last);
    last = guard.token().unwrap();
    primary.stop(Shutdown::Immediate).unwrap();
    assert_eq!(watch.wait_timeout(FOREVER), Some(Ended::SessionLost));
    // Until the promotion there is nobody who could give locks.
    let mut refusals = 0;
    eventually(|| match two.try_lock("leader") {
        Ok(taken) => panic!("{taken:?} from a standby"),
        Err(error) => {
            refusals += usize::from(error.kind() == ErrorKind::Standby);
            refusals > 0 || error.kind() == ErrorKind::Unavailable
        }
    });
    standby.promote();
    for mgr in [&two, &one] {
        eventually(|| match mgr.try_lock("leader") {
            Ok(Some(guard)) => {
                assert!(guard.token().unwrap() > last);
                last = guard.token().unwrap();
                true
            }
            _ => false,
        });
    }
    let held = two.lock("leader").unwrap();
    assert!(one.try_lock("leader").unwrap().is_none());
    assert_eq!(advisory_locks(&mut standby.client()).len(), 1);
    held.unlock().unwrap();
}
