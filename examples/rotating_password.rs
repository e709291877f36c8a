//! A password that changes while the program runs: the manager requests the login before
//! each connect, so the next reconnect uses the new one.
//!
//! It changes a role's password, so it runs on a throwaway server only.
// An example prints to the terminal.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::{env, fs, io, process};

use distlock::{Credentials, Manager};
use throwaway_postgres::Server;

fn main() -> anyhow::Result<()> {
    let server = Server::builder()
        .hba("host all app 127.0.0.1/32 scram-sha-256")
        .start()?;
    // As a secret store mounts it into a container.
    let secret = Secret::new("sesame-1")?;
    let mut admin = server.client();
    admin.batch_execute("CREATE ROLE app LOGIN PASSWORD 'sesame-1'")?;

    let path = secret.0.clone();
    let port = server.port();
    let mgr = Manager::builder(&format!("host=127.0.0.1 port={port} dbname=postgres"))
        .credentials(move || {
            let password = fs::read_to_string(&path)?;
            println!("the login is requested");
            Ok::<_, io::Error>(Credentials::new("app", password.trim_end()))
        })
        .connect()?;
    let guard = mgr.lock("nightly-report")?;
    admin.batch_execute("ALTER ROLE app PASSWORD 'sesame-2'")?;
    secret.write("sesame-2")?;
    println!(
        "the password has changed; the session continues, lost: {}",
        guard.is_lost()
    );

    let watch = guard.watch();
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'",
        &[],
    )?;
    println!("the session is ended: {:?}", watch.wait());
    mgr.lock("nightly-report")?.unlock()?;
    println!(
        "locked with the new password; connected for {:?}",
        mgr.health().age()
    );
    Ok(())
}

/// A file with a password, removed when the example ends.
struct Secret(PathBuf);

impl Secret {
    fn new(password: &str) -> io::Result<Secret> {
        let name = format!("distlock-rotating-password-{}", process::id());
        let secret = Secret(env::temp_dir().join(name));
        secret.write(password)?;
        Ok(secret)
    }

    /// Atomic for readers.
    fn write(&self, password: &str) -> io::Result<()> {
        let new = self.0.with_extension("new");
        fs::write(&new, password)?;
        fs::rename(new, &self.0)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}
