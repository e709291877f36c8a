//! A network that goes silent, slow, or breaks in the middle of a message.

use std::fs;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use distlock::{Builder, Ended, Guard, Manager};
use serial_test::serial;
use throwaway_postgres::{Proxy, Server};

use crate::support::*;

const MS: Duration = Duration::from_millis(1);

fn through(proxy: &Proxy) -> Builder {
    Manager::builder(&proxy.url())
        .heartbeat(20 * MS)
        .lease(800 * MS)
        .reconnect_backoff(10 * MS, 50 * MS)
}

#[apply(isolated_test)]
fn a_holder_that_is_cut_off_knows_it_before_the_next_has_the_lock() {
    let proxy = Proxy::to(server()).unwrap();
    let (far, near) = (through(&proxy).connect().unwrap(), manager());
    for _ in 0..3 {
        // After a partition the manager reconnects by itself.
        let mut held = None;
        eventually(|| {
            held = far.try_lock("partition").ok().flatten();
            held.is_some()
        });
        let watch = held.as_ref().unwrap().watch();
        // The time at which the loss is first visible.
        let seen = thread::spawn({
            let watch = watch.clone();
            move || (watch.wait(), Instant::now())
        });
        proxy.silence(true);
        let next = near.lock("partition").unwrap();
        let acquired = Instant::now();
        assert!(watch.is_lost(), "two inside");
        drop(next);
        let (ended, at) = finish(vec![seen]).remove(0);
        assert!(matches!(ended, Ended::LeaseExpired | Ended::SessionLost));
        assert!(at < acquired, "seen {:?} too late", at - acquired);
        proxy.silence(false);
    }
}

#[apply(isolated_test)]
fn a_broken_connection_trips_the_watch_and_is_made_again() {
    let proxy = Proxy::to(server()).unwrap();
    let mgr = through(&proxy).lease(None).connect().unwrap();
    for harm in [Proxy::cut, Proxy::reset, Proxy::tear] {
        let mut held = None;
        eventually(|| {
            held = mgr.try_lock("broken").ok().flatten();
            held.is_some()
        });
        let watch = held.as_ref().unwrap().watch();
        harm(&proxy);
        assert_eq!(watch.wait_timeout(FOREVER), Some(Ended::SessionLost));
    }
}

#[apply(isolated_test)]
fn an_answer_that_breaks_off_leaves_no_lock_behind() {
    let proxy = Proxy::to(server()).unwrap();
    let (far, near) = (through(&proxy).connect().unwrap(), manager());
    for n in 0..20 {
        proxy.tear();
        // The response to it, or to the heartbeat before it, is the last on this connection; the
        // lock is taken or not, and may have to be taken again on the next connection.
        if let Ok(guard) = far.lock((n, n)) {
            eventually(|| guard.is_lost() || near.try_lock((n, n)).unwrap().is_none());
        }
        drop(near.lock((n, n)).unwrap());
    }
}

#[apply(isolated_test)]
fn a_slow_network_is_only_slow() {
    let proxy = Proxy::to(server()).unwrap();
    let mgr = through(&proxy).connect().unwrap();
    proxy.delay_data(30 * MS);
    let threads = (0..4)
        .map(|_| {
            let mgr = mgr.clone();
            thread::spawn(move || (0..5).for_each(|_| mgr.lock("slow").unwrap().unlock().unwrap()))
        })
        .collect();
    finish(threads);
    assert_eq!(mgr.stats().lost, 0);
}

#[apply(isolated_test)]
fn the_lease_holds_for_many_locks_too() {
    let proxy = Proxy::to(server()).unwrap();
    let (far, near) = (through(&proxy).connect().unwrap(), manager());
    // Enough for the session to keep a transaction open.
    let held: Vec<_> = (0..400_i64).map(|key| far.lock(key).unwrap()).collect();
    let channel = held[0].watch().channel();
    proxy.silence(true);
    let next = near.try_lock_for(7_i64, FOREVER / 2).unwrap();
    assert!(next.is_some(), "the server never ended the session");
    assert!(held.iter().all(Guard::is_lost));
    assert_eq!(
        channel.recv_timeout(FOREVER),
        Err(RecvTimeoutError::Disconnected)
    );
    drop(next);
    proxy.silence(false);
}

#[apply(isolated_test)]
fn big_batches_keep_a_short_lease_alive() {
    for fencing in [false, true] {
        let builder = builder().heartbeat(50 * MS).lease(500 * MS);
        let builder = if fencing {
            builder.fencing("public.distlock_token")
        } else {
            builder
        };
        let mgr = builder.connect().unwrap();
        let held: Vec<_> = (0..2000_i64).map(|key| mgr.lock(key).unwrap()).collect();
        let start = Arc::new(Barrier::new(200));
        let threads = (0..200)
            .map(|n: i32| {
                let (mgr, start) = (mgr.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    (0..10).for_each(|m| drop(mgr.lock((n, m)).unwrap()));
                })
            })
            .collect();
        finish(threads);
        assert!(!held.iter().any(Guard::is_lost));
        assert_eq!((mgr.stats().lost, mgr.stats().reconnects), (0, 0));
    }
}

/// The seconds until the first probe on an idle connection of this process to `port`, from the
/// kernel.
fn until_probed(port: u16) -> Option<u64> {
    let remote = format!("0100007F:{port:04X}");
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_ours = fields.get(2) == Some(&&*remote) && fields.get(3) == Some(&"01");
        // Timer 2 is that of the probes; its time is in hundredths of a second.
        let ticks = fields.get(5).filter(|_| is_ours)?.strip_prefix("02:")?;
        u64::from_str_radix(ticks, 16)
            .ok()
            .map(|ticks| ticks.div_ceil(100))
    })
}

#[test]
#[serial]
fn keepalives_of_any_length_connect() {
    let server = Server::builder()
        .setting("log_statement", "all")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    let system: u64 = fs::read_to_string("/proc/sys/net/ipv4/tcp_keepalive_time")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    const ZERO: Duration = Duration::ZERO;
    let long = Duration::from_secs(40_000);
    let cases = [
        ("", ZERO, ZERO, 0, system, [0, 0, 0]),
        ("", 500 * MS, 500 * MS, 1, 1, [1, 1, 1]),
        ("", 1001 * MS, ZERO, 3, 2, [2, 0, 3]),
        ("", long, long, 1000, 32_767, [32_767, 32_767, 127]),
        (
            "",
            Duration::MAX,
            Duration::MAX,
            u32::MAX,
            32_767,
            [32_767, 32_767, 127],
        ),
        // Those of the connection string apply to the client's end.
        (
            "keepalives_idle=40000 keepalives_interval=40000 keepalives_count=500",
            ZERO,
            ZERO,
            0,
            32_767,
            [0, 0, 0],
        ),
        (
            "keepalives_idle=0 keepalives_interval=0 keepalives_count=0",
            9000 * MS,
            MS,
            1,
            system,
            [9, 1, 1],
        ),
    ];
    for (own, idle, interval, retries, here, there) in cases {
        let logged = server.log().len();
        let mgr = Manager::builder(&format!("{} {own}", server.tcp_url()))
            .tcp_keepalives(idle, interval, retries)
            .connect()
            .unwrap_or_else(|error| panic!("{own} {idle:?}: {error:?}"));
        // The last packet may have been sent a while ago.
        eventually(|| {
            until_probed(server.port()).is_some_and(|left| left <= here && left + 60 > here)
        });
        let log = server.log().split_off(logged);
        for (name, value) in ["idle", "interval", "count"].iter().zip(there) {
            let told = format!("SET tcp_keepalives_{name} = {value}");
            let is_told = log.split([';', '\n']).any(|part| part.ends_with(&told));
            assert!(is_told, "no `{told}` in {log}");
        }
        drop(mgr);
        eventually(|| backends(&mut server.client()).is_empty());
    }
    assert!(!server.log().contains("ERROR:"), "{}", server.log());
}

/// Settings of the driver that no connection string can express.
#[apply(isolated_test)]
fn keepalives_of_a_driver_config_are_rounded() {
    let mut config = postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(server().port())
        .user("postgres")
        .tcp_user_timeout(Duration::MAX)
        .keepalives_idle(MS)
        .keepalives_interval(Duration::ZERO)
        .keepalives_retries(1000);
    let mgr = Manager::builder(config).connect().unwrap();
    drop(mgr.lock("network").unwrap());
}
