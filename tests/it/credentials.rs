//! Logins that are requested anew before each connect.

use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::bounded;
use distlock::{Builder, Credentials, ErrorKind, Manager};
use serial_test::serial;
use throwaway_postgres::Server;

use crate::support::*;

const MS: Duration = Duration::from_millis(1);

/// A server that requires a password of the role `app`.
fn guarded_server() -> Server {
    let server = Server::builder()
        .hba("host all app 127.0.0.1/32 scram-sha-256")
        .start()
        .unwrap();
    let role = "CREATE ROLE app LOGIN PASSWORD 'first sesame'";
    server.client().batch_execute(role).unwrap();
    server
}

/// The connection string has a login, too, which is not used.
fn builder_of(server: &Server) -> Builder {
    let port = server.port();
    Manager::builder(&format!(
        "host=127.0.0.1 port={port} user=nobody password=none dbname=postgres"
    ))
    .reconnect_backoff(5 * MS, 20 * MS)
}

#[test]
#[serial]
fn a_password_that_is_rotated_is_asked_for_again() {
    let server = guarded_server();
    let _clean = clean_on(&server);
    let secret = Arc::new(Mutex::new("first sesame".to_owned()));
    let asked = Arc::new(AtomicUsize::new(0));
    let mgr = builder_of(&server)
        .credentials({
            let (secret, asked) = (Arc::clone(&secret), Arc::clone(&asked));
            move || {
                asked.fetch_add(1, SeqCst);
                Ok::<_, io::Error>(Credentials::new("app", secret.lock().unwrap().clone()))
            }
        })
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    let before = asked.load(SeqCst);
    let mut client = server.client();
    let rotate = "ALTER ROLE app PASSWORD 'second sesame'";
    client.batch_execute(rotate).unwrap();
    *secret.lock().unwrap() = "second sesame".into();
    terminate_sessions(&mut client);
    eventually(|| guard.is_lost());
    drop(mgr.lock("held").unwrap());
    assert!(asked.load(SeqCst) > before);
    assert!(!format!("{mgr:?}").contains("sesame"));
}

#[test]
#[serial]
fn what_the_function_says_is_the_connects_error() {
    let server = guarded_server();
    let _clean = clean_on(&server);
    let failing = || Err::<Credentials, _>(io::Error::other("the vault is sealed"));
    let error = builder_of(&server)
        .credentials(failing)
        .connect()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    assert!(error.is_transient(), "the vault may be opened");
    assert_eq!(error.source().unwrap().to_string(), "the vault is sealed");

    let wrong = || Ok::<_, io::Error>(Credentials::new("app", "wrong sesame"));
    let error = builder_of(&server)
        .credentials(wrong)
        .connect()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    assert!(!error.is_transient());
    assert!(!format!("{error:?}").contains("sesame"), "{error:?}");

    let unfit = || Ok::<_, io::Error>(Credentials::new("app", "se\0same"));
    let error = builder_of(&server)
        .credentials(unfit)
        .connect()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
}

#[test]
#[serial]
fn a_panic_of_the_function_harms_nobody_else() {
    let server = guarded_server();
    let _clean = clean_on(&server);
    let broken = Arc::new(AtomicBool::new(false));
    let mgr = builder_of(&server)
        .credentials({
            let broken = Arc::clone(&broken);
            move || {
                assert!(!broken.load(SeqCst), "a bug of the user's");
                Ok::<_, io::Error>(Credentials::new("app", "first sesame"))
            }
        })
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    broken.store(true, SeqCst);
    terminate_sessions(&mut server.client());
    eventually(|| guard.is_lost());
    let error = mgr.lock("held").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    assert!(error.to_string().contains("panicked"), "{error}");
    broken.store(false, SeqCst);
    eventually(|| mgr.lock("held").is_ok());
}

#[test]
#[serial]
fn a_function_that_does_not_return_has_the_connect_timeout() {
    let server = guarded_server();
    let _clean = clean_on(&server);
    let (return_now, returning) = bounded::<()>(0);
    let hanging = move || {
        returning.recv().ok();
        Err::<Credentials, _>("too late")
    };
    let error = builder_of(&server)
        .connect_timeout(100 * MS)
        .credentials(hanging)
        .connect()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("connect timeout"), "{error}");
    drop(return_now);
}

#[test]
#[serial]
fn a_client_has_the_login_of_the_manager() {
    let server = guarded_server();
    let credentials = || Ok::<_, io::Error>(Credentials::new("app", "first sesame"));
    let client = builder_of(&server).credentials(credentials).client();
    let row = client.unwrap().query_one("SELECT session_user::text", &[]);
    assert_eq!(row.unwrap().get::<_, &str>(0), "app");
}
