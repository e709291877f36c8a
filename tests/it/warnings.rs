//! What is said of waits and holds that last long, and of threads that wait for each other.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use distlock::{CancelToken, Key, Manager};
use throwaway_postgres::Server;

use crate::recording::{record, said};
use crate::support::*;

const LIMIT: Duration = Duration::from_millis(50);

/// The crate's warnings that contain `text`.
fn warnings(text: &str) -> Vec<String> {
    said()
        .lines()
        .filter(|line| line.contains("WARN") && line.contains("distlock::"))
        .filter(|line| line.contains(text))
        .map(String::from)
        .collect()
}

/// Runs `work` on a thread with this name.
fn named<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .unwrap()
}

/// Waits until the worker has looked for what lasts long several times.
fn pass(mgr: &Manager) {
    let before = mgr.stats().round_trips;
    let more = |mgr: &Manager| mgr.stats().round_trips >= before + 40;
    // Whoever only waits makes one round trip in a second.
    let _active = mgr.lock("to be active").unwrap();
    eventually(|| more(mgr));
}

fn strict() -> Manager {
    builder().warn_after(LIMIT).connect().unwrap()
}

#[apply(isolated_test)]
fn a_long_wait_names_the_thread_that_has_the_lock() {
    record();
    let mgr = strict();
    let (holds, held) = channel();
    let (end, ended) = channel::<()>();
    let holder = {
        let mgr = mgr.clone();
        named("the-holder", move || {
            let _guard = mgr.lock("warned").unwrap();
            holds.send(()).unwrap();
            ended.recv().ok();
        })
    };
    held.recv().unwrap();
    let waiter = {
        let mgr = mgr.clone();
        named("the-waiter", move || mgr.lock_shared("warned").map(drop))
    };
    eventually(|| warnings("waits long").len() == 1);
    let [wait] = &warnings("waits long")[..] else {
        panic!("{}", said());
    };
    for part in ["warned", "Shared", "the-waiter", "the-holder", "waited="] {
        assert!(wait.contains(part), "{part}: {wait}");
    }
    eventually(|| warnings("held for long").len() == 1);
    let [hold] = &warnings("held for long")[..] else {
        panic!("{}", said());
    };
    for part in ["warned", "Exclusive", "the-holder", "held="] {
        assert!(hold.contains(part), "{part}: {hold}");
    }
    pass(&mgr);
    assert_eq!(warnings("\"warned\"").len(), 2, "said more than once");
    drop(end);
    holder.join().unwrap();
    waiter.join().unwrap().unwrap();
}

#[apply(isolated_test)]
fn a_long_wait_names_the_session_that_has_the_lock() {
    record();
    let holder = builder()
        .application_name("the-other-one")
        .connect()
        .unwrap();
    let mgr = strict();
    for key in [Key::from("elsewhere"), Key::from((7, -7))] {
        let before = warnings("waits long").len();
        let guard = holder.lock(key).unwrap();
        let token = CancelToken::new();
        thread::scope(|scope| {
            let _unblock = Unblock(&mgr);
            let waiter = scope.spawn(|| mgr.acquire(key).cancel(&token).lock().map(drop));
            eventually(|| warnings("waits long").len() == before + 1);
            token.cancel();
            waiter.join().unwrap().unwrap_err();
        });
        let wait = warnings("waits long").remove(before);
        for part in ["the-other-one", "backend process"] {
            assert!(wait.contains(part), "{part}: {wait}");
        }
        drop(guard);
    }
    let said = warnings("waits long").join("\n");
    assert!(
        said.contains("elsewhere") && said.contains("(7, -7)"),
        "{said}"
    );
}

/// One that looks up who has a lock, and may not, costs nobody a lock.
#[apply(isolated_test)]
fn a_role_that_may_not_see_other_sessions_goes_on(server: Server) {
    record();
    let mut admin = server.client();
    admin.batch_execute("CREATE ROLE blind LOGIN").unwrap();
    let holder = Manager::connect(&server.url()).unwrap();
    let url = server.url().replace("user=postgres", "user=blind");
    let mgr = Manager::builder(&url).warn_after(LIMIT).connect().unwrap();
    admin
        .batch_execute("REVOKE SELECT ON pg_stat_activity FROM PUBLIC")
        .unwrap();
    let own = mgr.lock("own").unwrap();
    let guard = holder.lock("elsewhere").unwrap();
    let waiter = {
        let mgr = mgr.clone();
        thread::spawn(move || mgr.lock("elsewhere").map(drop))
    };
    eventually(|| warnings("waits long").len() == 1);
    drop(guard);
    waiter.join().unwrap().unwrap();
    own.unlock().unwrap();
    assert_eq!(mgr.stats().reconnects, 0);
}

#[apply(isolated_test)]
fn threads_that_wait_for_each_other_are_told_once() {
    record();
    let mgr = manager();
    let token = CancelToken::new();
    let (ready, both) = (channel(), channel());
    let threads: Vec<_> = [("one", "first", "second"), ("two", "second", "first")]
        .into_iter()
        .zip([ready.0, both.0])
        .zip([both.1, ready.1])
        .map(|(((name, own, other), tell), hear)| {
            let (mgr, token) = (mgr.clone(), token.clone());
            named(name, move || {
                let _guard = mgr.lock(own).unwrap();
                tell.send(()).unwrap();
                hear.recv().unwrap();
                mgr.acquire(other).cancel(&token).lock().map(drop)
            })
        })
        .collect();
    eventually(|| warnings("each other").len() == 1);
    pass(&mgr);
    assert_eq!(warnings("each other").len(), 1);
    let said = warnings("each other").remove(0);
    assert!(
        said.contains("\"one\"") && said.contains("\"two\""),
        "{said}"
    );
    for key in ["first", "second"] {
        assert!(said.contains(&Key::from(key).to_string()), "{said}");
    }
    token.cancel();
    for thread in threads {
        thread.join().unwrap().unwrap_err();
    }
}

#[apply(isolated_test)]
fn a_thread_that_waits_for_its_own_lock_is_told() {
    record();
    let mgr = manager();
    let token = CancelToken::new();
    let lonely = {
        let (mgr, token) = (mgr.clone(), token.clone());
        named("the-lonely-one", move || {
            let _guard = mgr.lock("own").unwrap();
            mgr.acquire("own").cancel(&token).lock().map(drop)
        })
    };
    eventually(|| warnings("each other").len() == 1);
    assert!(warnings("each other")[0].contains("the-lonely-one"));
    token.cancel();
    lonely.join().unwrap().unwrap_err();
}

#[apply(isolated_test)]
fn without_the_setting_only_cycles_are_told() {
    record();
    let (holder, mgr) = (manager(), manager());
    let _guard = holder.lock("long").unwrap();
    let token = CancelToken::new();
    thread::scope(|scope| {
        let _unblock = Unblock(&mgr);
        let waiter = scope.spawn(|| mgr.acquire("long").cancel(&token).lock().map(drop));
        pass(&mgr);
        assert!(warnings("").is_empty(), "{}", said());
        token.cancel();
        waiter.join().unwrap().unwrap_err();
    });
}
