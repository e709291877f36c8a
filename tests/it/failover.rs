//! A primary and its synchronous standby, which takes its place.

use std::io;
use std::thread;
use std::time::Duration;

use distlock::{Ended, ErrorKind, Manager};
use serial_test::serial;
use throwaway_postgres::{Server, Shutdown};

use crate::support::*;

/// A primary that waits for its standby at every commit.
fn pair() -> io::Result<(Server, Server)> {
    let primary = Server::start()?;
    let standby = Server::builder().standby_of(&primary).start()?;
    primary.await_standby();
    Ok((primary, standby))
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
    let (primary, standby) = or_skip!(pair());
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
fn a_client_of_a_builder_is_the_primarys() {
    let (primary, standby) = or_skip!(pair());
    let alone = Manager::builder(&standby.url()).client();
    assert_eq!(alone.err().map(|it| it.kind()), Some(ErrorKind::Standby));
    for hosts in [[&primary, &standby], [&standby, &primary]] {
        let mut client = Manager::builder(&url_of(&hosts)).client().unwrap();
        let row = client.query_one("SELECT pg_is_in_recovery()", &[]).unwrap();
        assert!(!row.get::<_, bool>(0));
    }
}

#[test]
#[serial]
fn the_manager_goes_over_to_the_new_primary_and_tokens_keep_growing() {
    let (primary, standby) = or_skip!(pair());
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
    // Until the promotion no server can grant locks.
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

#[test]
#[serial]
fn no_token_comes_out_that_the_standby_does_not_have() {
    let (primary, standby) = or_skip!(pair());
    let _clean = clean_on(&standby);
    let connect = |server: &Server| {
        Manager::builder(&server.url())
            .fencing("public.distlock_token")
            .connect()
            .unwrap()
    };
    let [logged, unlogged] = [(); 2].map(|()| connect(&primary));
    let mut client = primary.client();
    let mut ahead = || {
        let row = client.query_one("SELECT log_cnt FROM public.distlock_token", &[]);
        row.unwrap().get::<_, i64>(0)
    };
    // The next draw is one that is logged.
    while {
        drop(logged.lock("token").unwrap());
        ahead() > 0
    } {}
    let sender = "SELECT pid FROM pg_stat_replication";
    let sender: i32 = client.query_one(sender, &[]).unwrap().get(0);
    let paused = Paused::new([sender]);
    let waiting = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let mut waiting = || client.execute(waiting, &[]).unwrap();
    // One after the other, each until it is blocked.
    let draws = [("a", logged), ("b", unlogged)].map(|(key, mgr)| {
        let before = waiting();
        let draw = thread::spawn(move || mgr.lock(key).map(|guard| guard.token()));
        eventually(|| draw.is_finished() || waiting() > before);
        draw
    });
    let came_out = draws.each_ref().map(|draw| draw.is_finished());
    primary.stop(Shutdown::Immediate).unwrap();
    drop(paused);
    standby.promote();
    assert_eq!(came_out, [false, false]);
    for lost in finish(draws.into()) {
        assert!(lost.is_err(), "{lost:?} of a primary that had no standby");
    }
    assert!(connect(&standby).lock("c").unwrap().token().is_some());
}

#[test]
#[serial]
fn a_primary_without_its_standby_does_not_fill_up_with_sessions() {
    let (primary, _standby) = or_skip!(pair());
    let _clean = clean_on(&primary);
    let mgr = Manager::builder(&primary.url())
        .fencing("public.distlock_token")
        .response_timeout(Duration::from_millis(200))
        .reconnect_backoff(Duration::from_millis(5), Duration::from_millis(20))
        .connect()
        .unwrap();
    drop(mgr.lock("before").unwrap());
    let mut client = primary.client();
    let sender = "SELECT pid FROM pg_stat_replication";
    let sender: i32 = client.query_one(sender, &[]).unwrap().get(0);
    let paused = Paused::new([sender]);
    // Every lock waits for the standby, and each time a session is abandoned.
    let before = mgr.stats().reconnects;
    let mut most = 0;
    eventually(|| {
        assert!(mgr.lock("during").is_err());
        most = most.max(backends(&mut client).len());
        mgr.stats().reconnects >= before + 8
    });
    assert!(most <= 3, "{most} sessions");
    drop(paused);
    eventually(|| mgr.lock("after").is_ok());
}
