//! TLS as the connection string says, and by a connector of the caller's.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use distlock::{Builder, Ended, Error, ErrorKind, Manager};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serial_test::serial;
use throwaway_postgres::{Proxy, Server, Shutdown};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::bad_input::shown;
use crate::recording::{record, said};
use crate::support::*;

mod certificates;

/// The names in the servers' certificates.
const NAMES: [&str; 2] = ["db.example.com", "127.0.0.1"];

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new authority each time, always with the same name.
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// A certificate for [`NAMES`] and its key.
    fn signed(&self, change: impl FnOnce(&mut CertificateParams)) -> [String; 2] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(NAMES.map(String::from)).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        [certificate.pem(), key.serialize_pem()]
    }

    /// Its own certificate as a file, which is removed with the server.
    fn file(&self, server: &Server) -> String {
        let file = server.folder().join("authority.pem");
        fs::write(&file, self.0.pem()).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

/// A server with this certificate. It admits `app` only with its password, and `guest` only
/// with TLS.
fn server_with([certificate, key]: [String; 2]) -> Server {
    let server = Server::builder()
        .setting("ssl", "on")
        .file("server.crt", &certificate)
        .file("server.key", &key)
        .hba("host all app 127.0.0.1/32 scram-sha-256")
        .hba("hostnossl all guest 127.0.0.1/32 reject")
        .start()
        .unwrap();
    let roles = "CREATE ROLE app LOGIN PASSWORD 'open sesame'; CREATE ROLE guest LOGIN";
    server.client().batch_execute(roles).unwrap();
    server
}

/// The server of all tests that do not damage theirs, and the file of its authority.
fn secured() -> (&'static Server, &'static str) {
    static SECURED: OnceLock<(Server, String)> = OnceLock::new();
    let (server, file) = SECURED.get_or_init(|| {
        let authority = Authority::new();
        let server = server_with(authority.signed(|_| {}));
        let file = authority.file(&server);
        (server, file)
    });
    (server, file)
}

/// The server under the name `host`, whatever it is.
fn named(server: &Server, host: &str, rest: &str) -> String {
    let port = server.port();
    format!("host={host} hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres {rest}")
}

/// True if the connection of the only manager is encrypted, and so is any other that its
/// connect has just made and that is about to end.
fn encrypted(server: &Server) -> bool {
    server
        .client()
        .query_one(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE application_name LIKE 'distlock %'",
            &[],
        )
        .unwrap()
        .get(0)
}

#[track_caller]
fn refusal(dsn: &str) -> Error {
    let Err(error) = Manager::connect(dsn) else {
        panic!("{dsn} has been connected to");
    };
    error
}

/// Asserts that `dsn` is refused because of TLS, with a message that contains `word`.
#[track_caller]
fn check_refused(dsn: &str, word: &str) {
    let error = refusal(dsn);
    assert_eq!(error.kind(), ErrorKind::Tls, "{dsn}: {}", shown(&error));
    assert!(error.to_string().contains(word), "{dsn}: {}", shown(&error));
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.is::<postgres::Error>());
}

/// Asserts that the locks work, encrypted or not.
#[track_caller]
fn check_works(server: &Server, builder: Builder, with_tls: bool) {
    let mgr = builder.connect().unwrap();
    mgr.lock("a lock").unwrap().unlock().unwrap();
    assert_eq!(encrypted(server), with_tls);
    mgr.close().unwrap();
    eventually(|| backends(&mut server.client()).is_empty());
}

#[test]
#[serial]
fn a_certificate_that_is_in_order_is_accepted() {
    let (server, root) = secured();
    let _clean = clean_on(server);
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        for host in NAMES {
            let rest = format!("sslmode={mode} sslrootcert='{root}'");
            let builder = Manager::builder(&named(server, host, &rest));
            check_works(server, builder, true);
        }
    }
}

#[test]
#[serial]
fn a_client_is_connected_as_a_manager_is() {
    let (server, root) = secured();
    let dsn = |host| {
        named(
            server,
            host,
            &format!("sslmode=verify-full sslrootcert='{root}'"),
        )
    };
    let mut client = Manager::builder(&dsn("db.example.com")).client().unwrap();
    let own = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert!(client.query_one(own, &[]).unwrap().get::<_, bool>(0));
    let refused = Manager::builder(&dsn("other.example.com")).client();
    assert_eq!(refused.err().map(|it| it.kind()), Some(ErrorKind::Tls));
}

#[test]
#[serial]
fn a_url_says_the_same_as_pairs() {
    let (server, root) = secured();
    let _clean = clean_on(server);
    let url = |host| {
        format!(
            "postgres://postgres@{host}:{}/postgres?hostaddr=127.0.0.1&sslmode=verify-full\
             &sslrootcert={}",
            server.port(),
            root.replace('/', "%2F"),
        )
    };
    check_works(server, Manager::builder(&url("db.example.com")), true);
    check_refused(&url("other.example.com"), "another host");
}

#[test]
#[serial]
fn a_certificate_may_name_an_address() {
    let (server, root) = secured();
    let _clean = clean_on(server);
    let rest = format!("sslmode=verify-full sslrootcert='{root}'");
    for place in ["host=127.0.0.1", "hostaddr=127.0.0.1"] {
        let port = server.port();
        let dsn = format!("{place} port={port} user=postgres dbname=postgres {rest}");
        check_works(server, Manager::builder(&dsn), true);
    }
    check_refused(&named(server, "127.0.0.2", &rest), "another host");
}

#[test]
#[serial]
fn the_host_is_checked_by_verify_full_alone() {
    let (server, root) = secured();
    let _clean = clean_on(server);
    let dsn = |mode| {
        let rest = format!("sslmode={mode} sslrootcert='{root}'");
        named(server, "other.example.com", &rest)
    };
    check_refused(&dsn("verify-full"), "another host");
    check_works(server, Manager::builder(&dsn("verify-ca")), true);
}

/// In a process of its own, because the environment sets the system's roots.
#[test]
#[serial]
fn the_systems_authorities_are_trusted() {
    const CHILD: &str = "DISTLOCK_TEST_DSN";
    if let Ok(dsn) = env::var(CHILD) {
        for rest in [
            "sslrootcert=system",
            "sslmode=verify-full",
            "sslmode=verify-ca",
        ] {
            drop(Manager::connect(&format!("{dsn} {rest}")).unwrap());
        }
        return;
    }
    let (server, root) = secured();
    let _clean = clean_on(server);
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "tls::the_systems_authorities_are_trusted"])
        .env(CHILD, named(server, NAMES[0], ""))
        .env("SSL_CERT_FILE", root)
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:#?}");
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
}

#[apply(isolated_test)]
fn a_server_without_tls_is_refused_where_it_is_required() {
    for mode in ["require", "verify-ca", "verify-full"] {
        let dsn = format!("{} sslmode={mode}", server().tcp_url());
        check_refused(&dsn, "has no TLS");
    }
    let dsn = format!("{} sslmode=prefer", server().tcp_url());
    check_works(server(), Manager::builder(&dsn), false);
}

#[test]
#[serial]
fn a_server_that_wants_tls_refuses_the_login_without() {
    let (server, _) = secured();
    let _clean = clean_on(server);
    let guest = named(server, NAMES[0], "user=guest");
    let error = refusal(&format!("{guest} sslmode=disable"));
    assert_eq!(error.kind(), ErrorKind::Login, "{}", shown(&error));
    assert!(error.to_string().contains("only with TLS"), "{error}");
    drop(Manager::connect(&format!("{guest} sslmode=require")).unwrap());
}

#[test]
#[serial]
fn there_is_no_tls_on_unix_sockets() {
    let (server, root) = secured();
    let _clean = clean_on(server);
    for rest in ["sslmode=require", "sslmode=verify-full", "sslmode=prefer"] {
        let dsn = format!("{} {rest} sslrootcert='{root}'", server.url());
        check_works(server, Manager::builder(&dsn), false);
        let own = Manager::builder(&format!("{} {rest}", server.url())).tls(own_connector(root));
        check_works(server, own, false);
    }
}

#[test]
#[serial]
fn a_socket_beside_other_hosts_is_passed_over_where_tls_is_required() {
    let (server, _) = secured();
    let _clean = clean_on(server);
    for (mode, with_tls) in [("prefer", false), ("require", true)] {
        let socket = server.folder().display();
        let dsn = server.url().replace(
            &format!("host={socket}"),
            &format!("host={socket},127.0.0.1 sslmode={mode}"),
        );
        check_works(server, Manager::builder(&dsn), with_tls);
    }
}

#[test]
#[serial]
fn a_reconnect_is_encrypted() {
    let (server, root) = secured();
    let _clean = clean_on(server);
    let rest = format!("sslmode=verify-full sslrootcert='{root}'");
    let mgr = Manager::connect(&named(server, NAMES[0], &rest)).unwrap();
    let guard = mgr.lock("held").unwrap();
    terminate_sessions(&mut server.client());
    assert_eq!(guard.watch().wait(), Ended::SessionLost);
    let guard = mgr.lock("held").unwrap();
    assert_eq!(mgr.stats().reconnects, 1);
    assert!(encrypted(server));
    guard.unlock().unwrap();
}

/// The first connection of the preflight is encrypted as well.
#[test]
#[serial]
fn both_connections_of_a_connect_are_encrypted() {
    let (server, root) = secured();
    let _clean = clean_on(server);
    let proxy = Proxy::to(server).unwrap();
    record();
    let dsn = format!(
        "{} user=guest sslmode=verify-full sslrootcert='{root}'",
        proxy.url()
    );
    let mgr = Manager::connect(&dsn).unwrap();
    assert_eq!(proxy.accepted(), 2);
    assert!(!said().contains("no second connection"), "{}", said());
    mgr.lock("a").unwrap().unlock().unwrap();
}

fn own_connector(root: &str) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(root).unwrap())
        .unwrap();
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    MakeRustlsConnect::new(config)
}

#[test]
#[serial]
fn an_own_connector_needs_no_parameters() {
    let (server, root) = secured();
    let _clean = clean_on(server);
    let with_own =
        |host, rest| Manager::builder(&named(server, host, rest)).tls(own_connector(root));
    for rest in ["", "sslmode=require", "sslmode=verify-ca"] {
        check_works(server, with_own(NAMES[0], rest).clone(), true);
        // The connector verifies the host.
        let error = with_own("other.example.com", rest).connect().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls, "{}", shown(&error));
    }
    check_works(server, with_own(NAMES[0], "sslmode=disable"), false);
    let error = with_own(NAMES[0], "sslrootcert=system")
        .connect()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("sslrootcert"));
}

#[test]
#[serial]
fn passwords_work_with_tls_and_without() {
    let (server, root) = secured();
    let _clean = clean_on(server);
    let secure = format!("sslmode=verify-full sslrootcert='{root}'");
    for tls in ["sslmode=disable", "sslmode=require", &secure] {
        let app = named(server, NAMES[0], &format!("user=app {tls}"));
        drop(Manager::connect(&format!("{app} password='open sesame'")).unwrap());
        for (password, word) in [
            ("password='wrong sesame'", "password is wrong"),
            ("", "asks for a password"),
        ] {
            let error = refusal(&format!("{app} {password}"));
            assert_eq!(error.kind(), ErrorKind::Login, "{}", shown(&error));
            assert!(error.to_string().contains("refused the login"), "{error}");
            assert!(error.to_string().contains(word), "{error}");
            assert!(!shown(&error).contains("sesame"));
        }
    }
}

/// Channel binding ties the login to the certificate, which needs TLS.
#[test]
#[serial]
fn a_login_can_be_bound_to_the_channel() {
    let (server, _) = secured();
    let _clean = clean_on(server);
    let rest = "user=app password='open sesame' channel_binding=require";
    let app = named(server, NAMES[0], rest);
    drop(Manager::connect(&format!("{app} sslmode=require")).unwrap());
    let error = refusal(&format!("{app} sslmode=disable"));
    assert_eq!(error.kind(), ErrorKind::Login, "{}", shown(&error));
    assert!(!shown(&error).contains("sesame"));
}

#[test]
fn parameters_that_cannot_work_are_a_config_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &str| -> PathBuf {
        let file = folder.path().join(name);
        fs::write(&file, contents).unwrap();
        file
    };
    let empty = file("empty.pem", "");
    let rubbish = file("rubbish.pem", "-----BEGIN CERTIFICATE-----\nrubbish");
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let bad = file("bad.pem", bad);
    let missing = folder.path().join("missing.pem");
    let files = [empty, rubbish, bad, missing].map(|file| {
        let file = file.to_str().unwrap().to_owned();
        format!("sslmode=verify-full sslrootcert='{file}'")
    });
    let parameters = [
        "sslmode=perhaps",
        "sslmode=allow",
        "sslmode=verify-ca sslrootcert=system",
        "sslmode=require sslrootcert=system",
    ];
    for rest in parameters
        .into_iter()
        .chain(files.iter().map(String::as_str))
    {
        // Found before any connection is made: there is no server.
        let error = refusal(&format!("host=db.invalid user=app {rest}"));
        assert_eq!(error.kind(), ErrorKind::Config, "{}", shown(&error));
        let named = error
            .to_string()
            .contains(rest.split(['=', ' ']).next().unwrap());
        assert!(
            named || error.to_string().contains("sslrootcert"),
            "{error}"
        );
    }
}
