//! The server and its guardian.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use postgres::NoTls;
use rustix::process::{Pid, Signal, kill_process};

use crate::account::Account;
use crate::binaries;

/// How long a start or a stop may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often to look whether it is done. PostgreSQL sends no event for it.
const LOOK: Duration = Duration::from_millis(5);

/// How often a start tries another port when its own was taken meanwhile.
const PORTS: u32 = 5;

/// Ends the server when the pipe closes: `$0` is the folder. The server's children are
/// continued first, because a stopped one would not hear the signal to quit.
const GUARDIAN: &str = r#"
trap '' INT TERM HUP
read -r _
pid=$(head -n 1 "$0/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && [ -d "/proc/$pid" ]; then
    kill -CONT "$pid" $(cat "/proc/$pid/task/$pid/children" 2>/dev/null) 2>/dev/null
    kill -QUIT "$pid" 2>/dev/null
    n=0
    while [ -d "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null && [ $n -lt 600 ]; do
        sleep 0.05
        n=$((n + 1))
    done
fi
rm -rf "$0"
"#;

/// The ways to stop a server (`pg_ctl stop -m`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Waits for the clients to leave.
    Smart,
    /// Ends the sessions.
    Fast,
    /// Drops everything, as a crash would.
    Immediate,
}

impl Shutdown {
    fn signal(self) -> Signal {
        match self {
            Shutdown::Smart => Signal::TERM,
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        }
    }
}

/// Stops a process, such as one server backend, until [`resume`].
pub fn pause(pid: i32) {
    signal(pid, Signal::STOP).expect("the process to pause is there");
}

/// Continues a [paused](pause) process. One that is gone is no error.
pub fn resume(pid: i32) {
    signal(pid, Signal::CONT).ok();
}

fn signal(pid: i32, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("0 is no process"))?;
    Ok(kill_process(pid, signal)?)
}

/// The settings of a [`Server`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Vec<(String, String)>,
    hba: Vec<String>,
}

impl Builder {
    /// A line for postgresql.conf. Default: no fsync, loopback only.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A line for pg_hba.conf, before the default, which trusts everybody.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// Makes the cluster and starts the server.
    ///
    /// # Errors
    ///
    /// There is no PostgreSQL, or it does not start; then the error has its log.
    pub fn start(self) -> io::Result<Server> {
        Server::make(&self)
    }
}

/// A running server. All methods may be called from any thread.
#[derive(Debug)]
pub struct Server {
    postgres: PathBuf,
    account: Option<Account>,
    folder: PathBuf,
    port: u16,
    running: Mutex<Option<Child>>,
    guardian: Child,
}

impl Server {
    /// Starts a server with default settings.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::start`].
    pub fn start() -> io::Result<Server> {
        Server::builder().start()
    }

    /// Settings for a server.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn make(builder: &Builder) -> io::Result<Server> {
        let binaries = binaries::folder()?;
        let account = Account::for_server()?;
        // In /tmp, whatever TMPDIR says: a socket's path has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("pg-")
            .tempdir_in("/tmp")?
            .keep();
        let guardian = Command::new("sh")
            .args(["-c", GUARDIAN])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        // From here on dropping it removes the folder.
        let mut server = Server {
            postgres: binaries.join("postgres"),
            account,
            folder,
            port: 0,
            running: Mutex::new(None),
            guardian,
        };
        if let Some(account) = account {
            account.own(&server.folder)?;
        }
        server.initdb(&binaries.join("initdb"))?;
        server.write_hba(&builder.hba)?;
        for attempt in 1.. {
            server.port = free_port()?;
            server.write_settings(&builder.settings)?;
            match server.start_again() {
                Ok(()) => break,
                Err(error) if attempt < PORTS && error.to_string().contains("in use") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(server)
    }

    fn initdb(&self, initdb: &Path) -> io::Result<()> {
        let mut command = self.command(initdb);
        command
            .arg("--pgdata")
            .arg(self.data())
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync", "--no-instructions"]);
        let output = command.output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("initdb failed: {text}")));
        }
        Ok(())
    }

    fn write_hba(&self, lines: &[String]) -> io::Result<()> {
        let file = self.data().join("pg_hba.conf");
        let trust = fs::read_to_string(&file)?;
        fs::write(&file, format!("{}\n{trust}", lines.join("\n")))
    }

    fn write_settings(&self, settings: &[(String, String)]) -> io::Result<()> {
        let port = self.port.to_string();
        let folder = self.folder.display().to_string();
        let defaults = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", &folder),
            ("fsync", "off"),
            ("full_page_writes", "off"),
        ];
        let own = settings.iter().map(|(name, value)| (&**name, &**value));
        let text: String = defaults
            .into_iter()
            .chain(own)
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        // Read after postgresql.conf; of two lines for one setting the later counts.
        fs::write(self.data().join("postgresql.auto.conf"), text)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // Not the folder this process is in: the other user may not enter it.
        command.current_dir(&self.folder).stdin(Stdio::null());
        if let Some(account) = self.account {
            account.apply(&mut command);
        }
        command
    }

    /// Starts a stopped server, on the same port with the same data, and waits until
    /// it takes connections.
    ///
    /// # Errors
    ///
    /// It does not start; the error has its log.
    pub fn start_again(&self) -> io::Result<()> {
        let mut running = self.running();
        if running.is_some() {
            return Ok(());
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        let mut child = self
            .command(&self.postgres)
            .arg("-D")
            .arg(self.data())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if postgres::Client::connect(&self.url(), NoTls).is_ok_or_refusal() {
                *running = Some(child);
                return Ok(());
            }
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                child.kill().ok();
                child.wait()?;
                return Err(io::Error::other(format!(
                    "PostgreSQL does not start: {}",
                    self.log()
                )));
            }
            thread::sleep(LOOK);
        }
    }

    /// Stops the server and waits until it is gone. A stopped one stays stopped.
    ///
    /// # Errors
    ///
    /// It had to be killed.
    pub fn stop(&self, shutdown: Shutdown) -> io::Result<()> {
        let mut running = self.running();
        let Some(mut child) = running.take() else {
            return Ok(());
        };
        let pid = child.id().cast_signed();
        signal(pid, shutdown.signal())?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::other("the server did not stop and was killed"));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Stops and starts the server.
    ///
    /// # Errors
    ///
    /// Those of [`stop`](Server::stop) and [`start_again`](Server::start_again).
    pub fn restart(&self, shutdown: Shutdown) -> io::Result<()> {
        self.stop(shutdown)?;
        self.start_again()
    }

    /// Is the server running?
    pub fn is_running(&self) -> bool {
        self.running().is_some()
    }

    /// The postmaster's process; `None` while it is stopped.
    pub fn pid(&self) -> Option<i32> {
        self.running()
            .as_ref()
            .map(|child| child.id().cast_signed())
    }

    /// A connection string that goes through the unix socket.
    pub fn url(&self) -> String {
        format!(
            "host={} port={} user=postgres dbname=postgres",
            self.folder.display(),
            self.port
        )
    }

    /// A connection string that goes through the loopback port.
    pub fn tcp_url(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            self.port
        )
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder with the data, the socket and the log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A connection of the superuser's.
    pub fn client(&self) -> postgres::Client {
        postgres::Client::connect(&self.url(), NoTls).expect("the throwaway server is there")
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        // A test that panicked in here has not broken the child process.
        self.running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            // A paused backend would not hear that it is to quit.
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            for child in children.unwrap_or_default().split_whitespace() {
                resume(child.parse().unwrap_or(0));
            }
        }
        self.stop(Shutdown::Immediate).ok();
        // The guardian sees the pipe close and removes the folder.
        drop(self.guardian.stdin.take());
        self.guardian.wait().ok();
    }
}

/// A port that nobody listens on at the moment.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

trait Answer {
    fn is_ok_or_refusal(&self) -> bool;
}

impl Answer for Result<postgres::Client, postgres::Error> {
    /// Is the server up? A pg_hba.conf of the test's may refuse even the superuser.
    fn is_ok_or_refusal(&self) -> bool {
        match self {
            Ok(_) => true,
            Err(error) => error
                .code()
                .is_some_and(|code| code.code().starts_with("28")),
        }
    }
}
