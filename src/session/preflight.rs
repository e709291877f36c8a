//! What must be true of a server, or of what stands before it, for its locks to mean
//! anything. Looked at on every new connection: what was a primary may be a standby
//! now, and an address may lead to a pooler today.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;
use postgres::config::Host;
use postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use tracing::warn;

use super::errors::refused;
use crate::error::{Error, ErrorKind};
use crate::target::Target;

/// The first version with all that is used here (`tcp_user_timeout`, two-phase lookups).
const FIRST: i32 = 120_000;

pub(super) const STANDBY: &str = "the server takes no writes: a standby's locks exclude nobody \
     on the primary; connect to the primary, or name all hosts in the connection string";

/// How long a second connection may take to be answered, or half the time for the connect
/// if that is less. Where each connection has its server for itself and there is none left,
/// it has to wait, and that is an answer too.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often each connection looks where it is.
const LOOKS: usize = 3;

const ABOUT: &str = "SELECT pg_catalog.current_setting('server_version_num') AS version, \
     pg_catalog.pg_is_in_recovery() AS standby, \
     pg_catalog.pg_backend_pid() AS pid, \
     pg_catalog.host(pg_catalog.inet_server_addr()) AS address, \
     pg_catalog.current_setting('port') AS port, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'unix_socket_directories') \
     AS directories";

const PID: &str = "SELECT pg_catalog.pg_backend_pid() AS pid";

/// Refuses a server that cannot keep locks for this session, which is one of the only host
/// of `target`. Returns its version.
pub(super) fn check(
    client: &mut Client,
    target: &Target,
    login: impl FnOnce() -> Result<Client, Error> + Send + 'static,
) -> Result<i32, Error> {
    let about = About::of(client)?;
    if about.version < FIRST {
        return Err(Error::new(
            ErrorKind::ServerTooOld,
            format!(
                "the server's version {} is too old: PostgreSQL 12 or later is needed",
                about.version
            ),
        ));
    }
    if about.standby {
        return Err(Error::new(ErrorKind::Standby, STANDBY));
    }
    check_locking(client)?;
    if !is_direct(&about, target) {
        let patience = PATIENCE.min(target.connect_timeout() / 2);
        check_pooling(client, &about.pid, patience, login)?;
    }
    Ok(about.version)
}

struct About {
    version: i32,
    standby: bool,
    pid: String,
    /// Where the server took this connection; `None` for a unix socket.
    address: Option<IpAddr>,
    port: Option<u16>,
    /// Of its unix sockets, if this role may know.
    directories: Option<String>,
}

impl About {
    fn of(client: &mut Client) -> Result<About, Error> {
        let row = only_row(client, ABOUT)?;
        let text = |column| row.try_get(column).map_err(refused);
        Ok(About {
            version: parsed(text("version")?),
            standby: text("standby")? != Some("f"),
            pid: text("pid")?.unwrap_or_default().to_owned(),
            address: text("address")?.and_then(|address| address.parse().ok()),
            port: text("port")?.and_then(|port| port.parse().ok()),
            directories: text("directories")?.map(str::to_owned),
        })
    }
}

/// 0, the oldest version there can be, for what is no number.
fn parsed(version: Option<&str>) -> i32 {
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Takes a lock that nobody else wants and looks for it: some servers accept the lock
/// functions and do nothing.
fn check_locking(client: &mut Client) -> Result<(), Error> {
    let key = RandomState::new().hash_one("a key for nobody");
    let (high, low, key) = (key >> 32, key & 0xFFFF_FFFF, key.cast_signed());
    let statements = format!(
        "SELECT pg_catalog.pg_try_advisory_lock({key}) AS yes; \
         SELECT pg_catalog.count(*) = 1 AS yes FROM pg_catalog.pg_locks \
         WHERE locktype = 'advisory' AND granted AND pid = pg_catalog.pg_backend_pid() \
         AND classid::int8 = {high} AND objid::int8 = {low} AND objsubid = 1; \
         SELECT pg_catalog.pg_advisory_unlock({key}) AS yes"
    );
    let answers = rows(client, &statements)?;
    let yes = |row: &SimpleQueryRow| row.try_get("yes").ok().flatten() == Some("t");
    if answers.len() == 3 && answers.iter().all(yes) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotLocking,
        "the server accepts pg_try_advisory_lock, but the lock is not in pg_locks: it does \
         not keep advisory locks; use a PostgreSQL server",
    ))
}

/// Does the connection end at the very address that was dialled? Then nothing stands
/// between. A loopback address proves nothing: it may be another machine's, at the far end
/// of a tunnel, beside a pooler.
fn is_direct(about: &About, target: &Target) -> bool {
    let config = &target.config;
    if about.port != Some(target.port()) {
        return false;
    }
    match (config.get_hostaddrs(), config.get_hosts(), about.address) {
        ([dialled], _, Some(address)) => *dialled == address && !address.is_loopback(),
        ([], [Host::Unix(path)], None) => about.directories.as_ref().is_some_and(|directories| {
            directories
                .split(',')
                .any(|directory| path.as_os_str() == directory.trim().trim_matches('"'))
        }),
        _ => false,
    }
}

/// Two connections to a server have two sessions there, and keep them. A pooler that
/// lends sessions out for a transaction or a statement gives an idle one's to the next
/// who asks.
fn check_pooling(
    client: &mut Client,
    pid: &str,
    patience: Duration,
    login: impl FnOnce() -> Result<Client, Error> + Send + 'static,
) -> Result<(), Error> {
    let (sender, answer) = bounded(1);
    let look = move || {
        let pids = login().and_then(|mut second| pids(&mut second));
        sender.send(pids).ok();
    };
    // On a thread of its own, because it may have to wait for longer than we do.
    let probe = thread::Builder::new().name("distlock-probe".into());
    if let Err(error) = probe.spawn(look) {
        return Err(Error::unavailable("no thread for the connect").caused_by(error));
    }
    let mut answered = answer.recv_timeout(patience);
    let mut ours = pids(client)?;
    if answered.is_err() {
        // It waits for a session. Where sessions are lent out, this connection has to wait
        // for one, too, at each look, and behind the other: which then has its answer.
        ours.extend(pids(client)?);
        answered = answer.recv_timeout(patience / 10);
    }
    let theirs = match answered {
        Ok(Ok(pids)) => pids,
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            warn!(
                error,
                "no second connection, to see whether a pooler lends out sessions"
            );
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    let moved = ours.iter().any(|own| own != pid) || theirs.iter().any(|one| *one != theirs[0]);
    if moved || theirs.iter().any(|one| one == pid) {
        return Err(Error::new(
            ErrorKind::Pooler,
            "there is a pooler in transaction or statement mode before the server, which lends \
             one session to many: connect to the server itself, or to a pool in session mode",
        ));
    }
    Ok(())
}

/// In which sessions some statements of `client` run.
fn pids(client: &mut Client) -> Result<Vec<String>, Error> {
    let look = |_| {
        let row = only_row(client, PID)?;
        Ok(row
            .try_get("pid")
            .map_err(refused)?
            .unwrap_or_default()
            .to_owned())
    };
    (0..LOOKS).map(look).collect()
}

fn only_row(client: &mut Client, statement: &str) -> Result<SimpleQueryRow, Error> {
    rows(client, statement)?.pop().ok_or_else(|| {
        Error::new(
            ErrorKind::Database,
            "the server gave no answer to a simple question",
        )
    })
}

fn rows(client: &mut Client, statements: &str) -> Result<Vec<SimpleQueryRow>, Error> {
    let messages = client.simple_query(statements).map_err(refused)?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}
