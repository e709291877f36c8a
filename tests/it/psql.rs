//! Two servers, and which of them `psql` and this crate connect to.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use distlock::{Builder, Error};
use throwaway_postgres::{Server, missing};

/// The lock by which a session is found.
pub(crate) const KEY: i64 = 4711;

/// Two servers that differ only in their addresses. `app` may log in without a password,
/// `locked` only with one, [`PASSWORD`].
pub(crate) struct Two {
    pub(crate) a: Server,
    pub(crate) b: Server,
}

pub(crate) const PASSWORD: &str = r"open:sesame\";

/// Both servers; an error if there is no `psql` to compare with.
pub(crate) fn two() -> io::Result<&'static Two> {
    static TWO: OnceLock<Two> = OnceLock::new();
    Command::new("psql")
        .arg("--version")
        .output()
        .map_err(|error| missing(error.kind(), format!("no psql to compare with: {error}")))?;
    Ok(TWO.get_or_init(|| {
        let (a, b) = (start(), start());
        Two { a, b }
    }))
}

/// The operating system's user, whom libpq logs in by default.
fn me() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn start() -> Server {
    let server = Server::builder()
        .hba("host all locked 127.0.0.1/32 scram-sha-256")
        .hba("local all locked scram-sha-256")
        .start()
        .unwrap();
    let mut roles = vec!["app".to_owned(), "locked".to_owned(), me()];
    roles.retain(|role| role != "postgres");
    for role in roles {
        let create = format!("CREATE ROLE \"{role}\" LOGIN PASSWORD '{PASSWORD}'");
        server.client().batch_execute(&create).unwrap();
        server.create_database(&role);
    }
    server
}

impl Two {
    /// `text` with the addresses of the servers filled in.
    pub(crate) fn fill(&self, text: &str) -> String {
        let folder = |server: &Server| server.folder().to_str().unwrap().to_owned();
        let encoded = |server: &Server| folder(server).replace('/', "%2F");
        text.replace("{A}", &self.a.port().to_string())
            .replace("{B}", &self.b.port().to_string())
            .replace("{DIRA}", &folder(&self.a))
            .replace("{DIRB}", &folder(&self.b))
            .replace("{%DIRA}", &encoded(&self.a))
            .replace("{%DIRB}", &encoded(&self.b))
    }

    /// The session that holds the lock, as `port user database application`.
    pub(crate) fn holder(&self) -> String {
        let holder = |server: &Server| {
            let row = server
                .client()
                .query_opt(
                    "SELECT a.usename::text, a.datname::text, a.application_name \
                     FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                     WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = $1::int8::oid \
                     AND l.objsubid = 1",
                    &[&KEY],
                )
                .unwrap()?;
            let text = |n| row.get::<_, String>(n);
            let application = match text(2) {
                // The default, without the program, the host and the process.
                name if name.starts_with("distlock ") => "distlock".to_owned(),
                name => name,
            };
            let (port, user, database) = (server.port(), text(0), text(1));
            Some(format!("{port} {user} {database} {application}"))
        };
        holder(&self.a).or_else(|| holder(&self.b)).unwrap()
    }

    /// Where `builder` connects to.
    pub(crate) fn reached(&self, builder: Builder) -> Result<String, Error> {
        let mgr = builder.connect()?;
        let _guard = mgr.lock(KEY)?;
        Ok(self.holder())
    }
}

/// Where `psql` connects to, by this environment alone; `None` if it is refused.
pub(crate) fn psql(dsn: &str, environment: &[(&str, String)]) -> Option<String> {
    let ask = "SELECT concat_ws(' ', current_setting('port'), session_user, \
               current_database(), current_setting('application_name'))";
    let mut command = Command::new("psql");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.args(["-X", "-A", "-t", "-w", "-c", ask]);
    if !dsn.is_empty() {
        command.args(["-d", dsn]);
    }
    let output = command.output().unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    // Each has its own application name by default.
    let answer = answer.trim_end().replace(" psql", " distlock");
    output.status.success().then_some(answer)
}

/// Links to the server's socket in libpq's default folders, until this is dropped.
pub(crate) struct DefaultSocket(Vec<PathBuf>);

impl DefaultSocket {
    /// `None` if this user may not create them.
    pub(crate) fn of(server: &Server) -> Option<DefaultSocket> {
        let name = format!(".s.PGSQL.{}", server.port());
        let socket = server.folder().join(&name);
        // Not every libpq uses the first.
        let folders = ["/var/run/postgresql", "/tmp"].map(Path::new);
        let links = folders.iter().filter(|folder| folder.is_dir());
        let links: Vec<PathBuf> = links.map(|folder| folder.join(&name)).collect();
        let made = links.iter().filter(|link| symlink(&socket, link).is_ok());
        let made = DefaultSocket(made.cloned().collect());
        (made.0.len() == links.len()).then_some(made)
    }
}

impl Drop for DefaultSocket {
    fn drop(&mut self) {
        for link in &self.0 {
            fs::remove_file(link).ok();
        }
    }
}
