//! Shared support: one server, the frame of a test, waiting for events, a way to skip.

use std::fs;
use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use distlock::{Builder, Manager};
pub(crate) use macro_rules_attribute::apply;
use postgres::Client;
use throwaway_postgres::Server;

/// Long enough for any machine; a test that gets here has failed.
pub(crate) const FOREVER: Duration = Duration::from_secs(60);

/// The server of all tests that do not damage theirs.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start().unwrap())
}

pub(crate) fn manager() -> Manager {
    builder().connect().unwrap()
}

pub(crate) fn builder() -> Builder {
    Manager::builder(&server().url())
}

/// Makes a function a test, as `#[apply(isolated_test)]`: no other such test runs meanwhile,
/// and it must end [`Clean`] on the server of all tests or, if it takes a `server: Server`, on
/// one of its own.
macro_rules! isolated_test {
    ($(#[$attribute:meta])* fn $name:ident() $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        #[test]
        #[serial_test::serial]
        fn $name() $(-> $result)? {
            let _clean = $crate::support::clean();
            $body
        }
    };
    ($(#[$attribute:meta])* fn $name:ident($server:ident: $Server:ty) $body:block) => {
        $(#[$attribute])*
        #[test]
        #[serial_test::serial]
        fn $name() {
            let $server: $Server = throwaway_postgres::Server::start().unwrap();
            let _clean = $crate::support::clean_on(&$server);
            $body
        }
    };
}
pub(crate) use isolated_test;

/// The value of `made`. If this machine lacks what it needs, such as a program, the test ends
/// here and is reported as skipped.
macro_rules! or_skip {
    ($made:expr) => {
        // The name of a closure begins with that of its function.
        match $crate::support::unless_missing($made, std::any::type_name_of_val(&|| ())) {
            Some(made) => made,
            None => return,
        }
    };
}
pub(crate) use or_skip;

pub(crate) fn unless_missing<T>(made: io::Result<T>, test: &str) -> Option<T> {
    match made {
        Err(error) if throwaway_postgres::is_missing(&error) => {
            let test = test.split("::{{").next().unwrap_or_default();
            let test = test.strip_prefix("it::").unwrap_or(test);
            // Not `eprintln!`, whose output is not shown for a test that passes.
            let line = format!("skipped: {test}: {error}\n");
            io::stderr().write_all(line.as_bytes()).unwrap();
            None
        }
        made => Some(made.unwrap()),
    }
}

/// Waits until `what` is true.
#[track_caller]
pub(crate) fn eventually(what: impl FnMut() -> bool) {
    assert!(within(FOREVER, what), "it did not happen in a minute");
}

pub(crate) fn within(limit: Duration, mut what: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !what() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// At its end no advisory lock is left on the server and no thread of the crate in the
/// process. Made first in a test, so that it is dropped last.
pub(crate) struct Clean<'a>(&'a Server);

pub(crate) fn clean() -> Clean<'static> {
    Clean(server())
}

pub(crate) fn clean_on(server: &Server) -> Clean<'_> {
    Clean(server)
}

impl Drop for Clean<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        eventually(|| threads().is_empty());
        if self.0.is_running() {
            let mut client = self.0.client();
            eventually(|| advisory_locks(&mut client).is_empty());
        }
    }
}

/// The crate's threads in this process, by name.
pub(crate) fn threads() -> Vec<String> {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        // A thread may end meanwhile.
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .filter(|name| name.starts_with("distlock-"))
        .collect()
}

/// How many threads of this process with that name sleep.
pub(crate) fn asleep(name: &str) -> usize {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        // pid (name) state …
        .filter(|stat| stat.contains(&format!("({name}) S ")))
        .count()
}

/// Ends the waits of a test that fails, which would otherwise hang.
pub(crate) struct Unblock<'a>(pub(crate) &'a Manager);

impl Drop for Unblock<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close().ok();
        }
    }
}

/// The advisory locks on the server, as `Key::as_i64` numbers; except the markers that managers'
/// sessions hold until they end and the marks of their transactions, whose first halves are `dlck`
/// and `dltx` in ASCII, and the companions of keys that are held.
pub(crate) fn advisory_locks(client: &mut Client) -> Vec<i64> {
    client
        .query(
            "WITH held AS (SELECT (classid::int8 << 32) | objid::int8 AS n, objsubid, mode \
             FROM pg_locks WHERE locktype = 'advisory' AND granted) \
             SELECT n FROM held WHERE NOT (objsubid = 2 \
             AND n >> 32 IN (x'646c636b'::int8, x'646c7478'::int8)) \
             AND NOT (objsubid = 1 AND mode = 'ShareLock' AND EXISTS (SELECT FROM held AS key \
             WHERE held.n # key.n IN (x'646c776169746269'::int8, x'646c776169746969'::int8, \
             x'95aa5a2106988832'::int8, x'572f3037dc18561b'::int8, \
             x'6b95c6546e381fbf'::int8, x'c444c8eb8ed00154'::int8)))",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// How many sessions wait in the server's queue of an advisory lock.
pub(crate) fn queued(client: &mut Client) -> usize {
    let waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    usize::try_from(client.execute(waiting, &[]).unwrap()).unwrap()
}

/// Ends the sessions of all managers, as an administrator would.
pub(crate) fn terminate_sessions(client: &mut Client) -> usize {
    client
        .query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name LIKE 'distlock %'",
            &[],
        )
        .unwrap()
        .len()
}

/// Cancels the statements that managers' sessions run, as an administrator would.
pub(crate) fn cancel_statements(client: &mut Client) {
    client
        .execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
             WHERE application_name LIKE 'distlock %' AND state = 'active'",
            &[],
        )
        .unwrap();
}

/// The server processes of all managers' sessions.
pub(crate) fn backends(client: &mut Client) -> Vec<i32> {
    client
        .query(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'distlock %'",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// The results of `threads`, which must all end within a minute.
#[track_caller]
pub(crate) fn finish<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    let limit = Instant::now() + FOREVER;
    while !threads.iter().all(JoinHandle::is_finished) {
        let stuck = threads.iter().filter(|thread| !thread.is_finished());
        assert!(Instant::now() < limit, "{} threads hang", stuck.count());
        std::thread::sleep(Duration::from_millis(2));
    }
    threads.into_iter().map(|t| t.join().unwrap()).collect()
}

/// Stopped processes, until this is dropped.
pub(crate) struct Paused(Vec<i32>);

impl Paused {
    pub(crate) fn new(pids: impl IntoIterator<Item = i32>) -> Self {
        let pids: Vec<i32> = pids.into_iter().collect();
        assert!(!pids.is_empty());
        pids.iter().for_each(|&pid| throwaway_postgres::pause(pid));
        Paused(pids)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.0
            .iter()
            .for_each(|&pid| throwaway_postgres::resume(pid));
    }
}

/// Makes `function` of a bigint return `answer` while there is a row in `imposed`: to the
/// session that the row names, or to all if it names none.
pub(crate) fn impose(client: &mut Client, function: &str, answer: &str) {
    client
        .batch_execute(&format!(
            "CREATE TABLE imposed (pid int); \
             ALTER FUNCTION {function}(bigint) RENAME TO honest; \
             CREATE FUNCTION {function}(n bigint) RETURNS boolean VOLATILE LANGUAGE sql AS \
             'SELECT CASE WHEN EXISTS (SELECT FROM public.imposed \
             WHERE coalesce(pid = pg_catalog.pg_backend_pid(), true)) THEN {answer} \
             ELSE pg_catalog.honest(n) END'"
        ))
        .unwrap();
}
