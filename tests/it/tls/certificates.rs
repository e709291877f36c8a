//! Certificates of all kinds, and those that change between two connects.

use std::path::Path;

use postgres::{Client, NoTls};

use super::*;

/// Makes `server` present another certificate.
fn install(server: &Server, [certificate, key]: [String; 2]) {
    fs::write(server.folder().join("data/server.crt"), certificate).unwrap();
    fs::write(server.folder().join("data/server.key"), key).unwrap();
    server.restart(Shutdown::Fast).unwrap();
}

fn limit_version(server: &Server, version: &str) {
    let sql = format!("ALTER SYSTEM SET ssl_max_protocol_version = '{version}'");
    server.client().batch_execute(&sql).unwrap();
}

/// Runs `openssl` in `folder`, with arguments separated by blanks.
fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl {arguments}: {output:#?}");
}

/// A certificate with a key of any algorithm, which rcgen cannot make, and that key. It is of
/// version 3 and for [`NAMES`] if it is to be verified, else of version 1, and signed by `issuer`
/// or itself.
fn made(algorithm: &str, version: u8, issuer: Option<&[String; 2]>) -> [String; 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let mut sign = "x509 -req -in request.pem -days 30 -out own.pem".to_owned();
    if version == 3 {
        let names = format!("subjectAltName = DNS:{}, IP:{}", NAMES[0], NAMES[1]);
        fs::write(path("extensions"), names).unwrap();
        sign += " -extfile extensions";
    }
    if let Some([certificate, key]) = issuer {
        fs::write(path("issuer.pem"), certificate).unwrap();
        fs::write(path("issuer.key"), key).unwrap();
        sign += " -CA issuer.pem -CAkey issuer.key -CAcreateserial";
    } else {
        sign += " -signkey own.key";
    }
    let key = format!("genpkey -algorithm {algorithm} -out own.key");
    let request = "req -new -key own.key -subj /CN=db.example.com -out request.pem";
    for arguments in [key.as_str(), request, &sign] {
        openssl(folder.path(), arguments);
    }
    ["own.pem", "own.key"].map(|name| fs::read_to_string(path(name)).unwrap())
}

const P256: &str = "EC -pkeyopt ec_paramgen_curve:P-256";
const P384: &str = "EC -pkeyopt ec_paramgen_curve:P-384";
const P521: &str = "EC -pkeyopt ec_paramgen_curve:P-521";
const RSA: &str = "RSA -pkeyopt rsa_keygen_bits:2048";
/// Of several primes, which are found sooner.
const LONG_RSA: &str = "RSA -pkeyopt rsa_keygen_bits:8200 -pkeyopt rsa_keygen_primes:5";
const RSA_PSS: &str = "RSA-PSS -pkeyopt rsa_keygen_bits:2048";

#[test]
#[serial]
fn another_authority_is_refused() {
    let (server, _) = secured();
    let _clean = clean_on(server);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("other.pem");
    fs::write(&root, Authority::new().0.pem()).unwrap();
    // With an authority given, even `require` verifies.
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        let rest = format!("sslmode={mode} sslrootcert='{}'", root.display());
        check_refused(&named(server, NAMES[0], &rest), "trusted authority");
    }
    for rest in [
        "sslrootcert=system",
        "sslmode=verify-full",
        "sslmode=verify-ca",
    ] {
        check_refused(&named(server, NAMES[0], rest), "trusted authority");
    }
}

#[test]
#[serial]
fn without_an_authority_anybody_is_accepted() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["nobody".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let server = server_with([certificate.pem(), key.serialize_pem()]);
    let _clean = clean_on(&server);
    for rest in ["", "sslmode=prefer", "sslmode=require"] {
        check_works(&server, Manager::builder(&named(&server, "db", rest)), true);
    }
    let builder = Manager::builder(&named(&server, "db", "sslmode=disable"));
    check_works(&server, builder, false);
    // A self-signed certificate may be its own authority.
    let root = server
        .folder()
        .join("data/server.crt")
        .display()
        .to_string();
    let rest = format!("sslmode=verify-full sslrootcert='{root}'");
    let builder = Manager::builder(&named(&server, "nobody", &rest));
    check_works(&server, builder, true);
}

#[test]
#[serial]
fn a_certificate_out_of_its_time_is_refused() {
    let authority = Authority::new();
    let expired = authority.signed(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let server = server_with(expired);
    let _clean = clean_on(&server);
    let root = authority.file(&server);
    for mode in ["verify-ca", "verify-full"] {
        let rest = format!("sslmode={mode} sslrootcert='{root}'");
        check_refused(&named(&server, NAMES[0], &rest), "expired");
    }
}

#[test]
#[serial]
fn a_certificate_of_version_1_is_taken_where_it_is_not_verified() {
    let authority = made(P256, 1, None);
    let server = server_with(made(RSA, 1, Some(&authority)));
    let _clean = clean_on(&server);
    let root = server.folder().join("root.pem");
    for (version, algorithm) in [("TLSv1.3", RSA), ("TLSv1.2", P384)] {
        limit_version(&server, version);
        let signed = made(algorithm, 1, Some(&authority));
        for (own, trusted) in [(made(algorithm, 1, None), None), (signed, Some(&authority))] {
            fs::write(&root, &trusted.unwrap_or(&own)[0]).unwrap();
            install(&server, own);
            for rest in [
                "",
                "sslmode=prefer",
                "sslmode=require",
                "sslmode=require channel_binding=require user=app password='open sesame'",
            ] {
                let dsn = named(&server, NAMES[0], rest);
                check_works(&server, Manager::builder(&dsn), true);
            }
            for mode in ["prefer", "require", "verify-ca", "verify-full"] {
                let rest = format!("sslmode={mode} sslrootcert='{}'", root.display());
                check_refused(&named(&server, NAMES[0], &rest), "version 1");
            }
            for rest in [
                "sslmode=verify-ca",
                "sslmode=verify-full",
                "sslrootcert=system",
            ] {
                check_refused(&named(&server, NAMES[0], rest), "version 1");
            }
        }
    }
}

#[test]
#[serial]
fn keys_are_taken_or_refused_by_name() {
    let server = server_with(Authority::new().signed(|_| {}));
    let _clean = clean_on(&server);
    let root = server.folder().join("data/server.crt");
    let verified = format!("sslmode=verify-full sslrootcert='{}'", root.display());
    for version in ["TLSv1.3", "TLSv1.2"] {
        limit_version(&server, version);
        for algorithm in [P384, RSA, "ED25519"] {
            install(&server, made(algorithm, 3, None));
            for rest in ["sslmode=require", &verified] {
                let dsn = named(&server, NAMES[0], rest);
                check_works(&server, Manager::builder(&dsn), true);
            }
        }
        for (algorithm, name) in [
            (P521, "P-521"),
            (RSA_PSS, "RSA-PSS"),
            ("ED448", "Ed448"),
            (LONG_RSA, "8192 bits"),
        ] {
            install(&server, made(algorithm, 3, None));
            for rest in ["sslmode=prefer", "sslmode=require", &verified] {
                check_refused(&named(&server, NAMES[0], rest), name);
            }
        }
    }
}

/// The server's own key is supported, but the key of its authority may not be.
#[test]
#[serial]
fn keys_of_authorities_are_taken_or_refused_by_name() {
    let server = server_with(Authority::new().signed(|_| {}));
    let _clean = clean_on(&server);
    let root = server.folder().join("root.pem");
    let verified = format!("sslmode=verify-full sslrootcert='{}'", root.display());
    for (algorithm, refused) in [(RSA, None), (P521, Some("P-384")), (RSA_PSS, Some("P-384"))] {
        // Version 1 is enough for a root.
        let authority = made(algorithm, 1, None);
        fs::write(&root, &authority[0]).unwrap();
        install(&server, made(P256, 3, Some(&authority)));
        let dsn = named(&server, NAMES[0], "sslmode=require");
        check_works(&server, Manager::builder(&dsn), true);
        let dsn = named(&server, NAMES[0], &verified);
        match refused {
            None => check_works(&server, Manager::builder(&dsn), true),
            Some(word) => check_refused(&dsn, word),
        }
    }
}

#[test]
#[serial]
fn a_reconnect_to_another_certificate_is_refused() {
    let authority = Authority::new();
    let server = server_with(authority.signed(|_| {}));
    let _clean = clean_on(&server);
    let rest = format!(
        "sslmode=verify-full sslrootcert='{}'",
        authority.file(&server)
    );
    let mgr = Manager::connect(&named(&server, NAMES[0], &rest)).unwrap();
    install(&server, Authority::new().signed(|_| {}));
    let is_refused = || {
        mgr.try_lock("a")
            .is_err_and(|error| error.kind() == ErrorKind::Tls)
    };
    eventually(is_refused);
    install(&server, authority.signed(|_| {}));
    eventually(|| mgr.try_lock("a").is_ok());
}

#[test]
#[serial]
fn the_authorities_are_read_again_at_each_connect() {
    let authority = Authority::new();
    let server = server_with(authority.signed(|_| {}));
    let _clean = clean_on(&server);
    let root = authority.file(&server);
    for mode in ["verify-ca", "verify-full"] {
        let dsn = named(
            &server,
            NAMES[0],
            &format!("sslmode={mode} sslrootcert='{root}'"),
        );
        let mgr = Manager::connect(&dsn).unwrap();
        let next = Authority::new();
        next.file(&server);
        install(&server, next.signed(|_| {}));
        eventually(|| mgr.try_lock("a").is_ok());
        assert!(encrypted(&server));
    }
}

#[test]
#[serial]
fn authorities_that_cannot_be_read_end_one_connect_only() {
    let authority = Authority::new();
    let server = server_with(authority.signed(|_| {}));
    let _clean = clean_on(&server);
    let root = authority.file(&server);
    let rest = format!("sslmode=require sslrootcert='{root}'");
    let mgr = Manager::connect(&named(&server, NAMES[0], &rest)).unwrap();
    for contents in [None, Some(""), Some("-----BEGIN CERTIFICATE-----\nrubbish")] {
        match contents {
            None => fs::remove_file(&root).unwrap(),
            Some(contents) => fs::write(&root, contents).unwrap(),
        }
        terminate_sessions(&mut server.client());
        let is_refused = || {
            mgr.try_lock("a").is_err_and(|error| {
                let text = shown(&error);
                error.kind() == ErrorKind::Tls
                    && error.to_string().contains("authorities cannot be read")
                    && text.contains("the file named by sslrootcert")
            })
        };
        eventually(is_refused);
        authority.file(&server);
        eventually(|| mgr.try_lock("a").is_ok());
        assert!(encrypted(&server));
    }
}

#[apply(isolated_test)]
fn authorities_are_not_needed_where_there_is_no_tls() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    fs::write(&root, Authority::new().0.pem()).unwrap();
    let rest = format!("sslmode=prefer sslrootcert='{}'", root.display());
    let mgr = Manager::connect(&named(server(), NAMES[0], &rest)).unwrap();
    fs::remove_file(&root).unwrap();
    let guard = mgr.lock("a").unwrap();
    terminate_sessions(&mut server().client());
    assert_eq!(guard.watch().wait(), Ended::SessionLost);
    mgr.lock("a").unwrap().unlock().unwrap();
    assert!(!encrypted(server()));
}

/// In a process of its own, because it changes its working directory.
#[test]
#[serial]
fn the_authorities_are_where_they_were_at_first() {
    const CHILD: &str = "DISTLOCK_TEST_DSN";
    if let Ok(dsn) = env::var(CHILD) {
        let rest = "sslmode=verify-full sslrootcert=authority.pem";
        let mgr = Manager::connect(&format!("{dsn} {rest}")).unwrap();
        env::set_current_dir("/").unwrap();
        let guard = mgr.lock("a").unwrap();
        terminate_sessions(&mut Client::connect(&dsn, NoTls).unwrap());
        assert_eq!(guard.watch().wait(), Ended::SessionLost);
        mgr.lock("a").unwrap().unlock().unwrap();
        return;
    }
    let (server, root) = secured();
    let _clean = clean_on(server);
    let child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "tls::certificates::the_authorities_are_where_they_were_at_first",
        ])
        .env(CHILD, named(server, NAMES[0], ""))
        .current_dir(Path::new(root).parent().unwrap())
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:#?}");
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
}
