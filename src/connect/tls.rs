//! How connections are encrypted: by a connector of the caller's, or as the connection string
//! says with libpq's parameters.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;

use postgres::config::{Host, SslMode};
use postgres::tls::{MakeTlsConnect, TlsConnect};
use postgres::{CancelToken, Client, NoTls, Socket};

use crate::connect::dsn::TlsParameters;
use crate::error::Error;

#[cfg(feature = "tls")]
mod rustls;

/// Connects with the TLS implementation that it was made from.
#[derive(Clone)]
pub(crate) struct Connector {
    connect: Arc<Connect>,
    cancel: Arc<Cancel>,
}

type Connect = dyn Fn(&postgres::Config) -> Result<Client, postgres::Error> + Send + Sync;
type Cancel = dyn Fn(&CancelToken) -> Result<(), postgres::Error> + Send + Sync;

impl Connector {
    pub(crate) fn new<T>(tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::TlsConnect: Send,
        T::Stream: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let again = tls.clone();
        Connector {
            connect: Arc::new(move |config| config.connect(tls.clone())),
            cancel: Arc::new(move |token| token.cancel_query(again.clone())),
        }
    }

    pub(crate) fn connect(&self, config: &postgres::Config) -> Result<Client, postgres::Error> {
        (self.connect)(config)
    }

    /// Makes the server cancel the statement of the client that `token` is from.
    pub(crate) fn cancel(&self, token: &CancelToken) -> Result<(), postgres::Error> {
        (self.cancel)(token)
    }
}

/// The values of `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    fn parse(value: &str) -> Result<Mode, Error> {
        match value {
            "disable" => Ok(Mode::Disable),
            "prefer" => Ok(Mode::Prefer),
            "require" => Ok(Mode::Require),
            "verify-ca" => Ok(Mode::VerifyCa),
            "verify-full" => Ok(Mode::VerifyFull),
            _ => Err(Error::config(
                "sslmode must be disable, prefer, require, verify-ca or verify-full",
            )),
        }
    }

    /// The driver's equivalent.
    fn negotiated(self) -> SslMode {
        match self {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        }
    }
}

/// What a server's certificate is verified by.
#[derive(Debug, PartialEq, Eq)]
enum Trust {
    Anybody,
    SystemRoots { check_host: bool },
    RootsIn { file: PathBuf, check_host: bool },
}

/// The connector to use: the caller's `own`, if there is one. Sets the TLS mode of `config`.
pub(crate) fn choose(
    config: &mut postgres::Config,
    parameters: TlsParameters,
    own: Option<Connector>,
) -> Result<Connector, Error> {
    // As for libpq, what is empty is not given.
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let mode = given(parameters.sslmode)
        .map(|mode| Mode::parse(&mode))
        .transpose()?;
    let roots = given(parameters.sslrootcert);
    let (mode, connector) = match own {
        Some(_) if roots.is_some() => {
            return Err(Error::config(
                "sslrootcert has no effect on the connector given with Builder::tls, which \
                 decides itself which authorities it trusts: leave one of them out",
            ));
        }
        // A connector that is given is meant to be used.
        Some(own) => (mode.unwrap_or(Mode::Require), own),
        None => {
            let (mode, trust) = resolve_sslmode(mode, roots)?;
            let connector = match mode {
                Mode::Disable => Connector::new(NoTls),
                _ => default_connector(mode, trust)?,
            };
            (mode, connector)
        }
    };
    config.ssl_mode(mode.negotiated());
    if is_local(config) {
        config.ssl_mode(SslMode::Disable);
    }
    if config.get_hosts().is_empty() {
        // The name to verify in the certificate, which the driver takes from `host` alone.
        for address in config.get_hostaddrs().to_vec() {
            config.host(&address.to_string());
        }
    }
    // The driver sets up TLS before it knows whether it will be used, and not every
    // implementation accepts the empty host name of a unix socket.
    match config.get_ssl_mode() {
        SslMode::Disable => Ok(Connector::new(NoTls)),
        _ => Ok(connector),
    }
}

/// What `sslmode` and `sslrootcert` mean together. As in libpq, except `~/.postgresql/root.crt`,
/// which is not read: without `sslrootcert` the `verify-…` modes trust the system's roots, where
/// libpq without that file refuses to connect, and the other modes do not verify, where libpq
/// with that file does.
fn resolve_sslmode(mode: Option<Mode>, roots: Option<String>) -> Result<(Mode, Trust), Error> {
    match (mode, roots) {
        (None | Some(Mode::VerifyFull), Some(roots)) if roots == "system" => {
            Ok((Mode::VerifyFull, Trust::SystemRoots { check_host: true }))
        }
        (Some(_), Some(roots)) if roots == "system" => Err(Error::config(
            "sslrootcert=system needs sslmode=verify-full: anyone can have a certificate of \
             a public authority",
        )),
        (mode, roots) => {
            let mode = mode.unwrap_or(Mode::Prefer);
            let check_host = mode == Mode::VerifyFull;
            let trust = match (mode, roots) {
                (_, Some(file)) => Trust::RootsIn {
                    file: file.into(),
                    check_host,
                },
                (Mode::VerifyCa | Mode::VerifyFull, None) => Trust::SystemRoots { check_host },
                (_, None) => Trust::Anybody,
            };
            Ok((mode, trust))
        }
    }
}

#[cfg(feature = "tls")]
fn default_connector(_: Mode, trust: Trust) -> Result<Connector, Error> {
    rustls::connector(trust)
}

#[cfg(not(feature = "tls"))]
fn default_connector(mode: Mode, trust: Trust) -> Result<Connector, Error> {
    match (mode, trust) {
        (Mode::Prefer, Trust::Anybody) => Ok(Connector::new(NoTls)),
        _ => Err(Error::config(
            "the connection string asks for TLS: turn on the feature `tls` of distlock or \
             give a connector with Builder::tls",
        )),
    }
}

/// True if all hosts are unix sockets, which have no TLS.
fn is_local(config: &postgres::Config) -> bool {
    let is_socket = |host: &Host| !matches!(host, Host::Tcp(_));
    config.get_hostaddrs().is_empty() && config.get_hosts().iter().all(is_socket)
}

/// What to do about `error`, if it is one of TLS.
pub(crate) fn hint(error: &postgres::Error) -> Option<&'static str> {
    // Only its text tells the kind of the driver's error.
    if !error
        .to_string()
        .starts_with("error performing TLS handshake")
    {
        return None;
    }
    let cause = error.source();
    if cause.is_some_and(|cause| cause.to_string() == "server does not support TLS") {
        return Some(
            "the server has no TLS, which is required: turn on `ssl` there, or use another \
             sslmode in the connection string",
        );
    }
    #[cfg(feature = "tls")]
    if let Some(hint) = cause.and_then(rustls::hint) {
        return Some(hint);
    }
    Some("the TLS handshake with the server failed; the source says why")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn resolved(mode: &str, roots: &str) -> Result<(Mode, Trust), ErrorKind> {
        let mode = (!mode.is_empty()).then(|| Mode::parse(mode).unwrap());
        let roots = (!roots.is_empty()).then(|| roots.to_owned());
        resolve_sslmode(mode, roots).map_err(|error| error.kind())
    }

    #[test]
    fn parameters_mean_what_they_mean_to_libpq() {
        let system = |check_host| Trust::SystemRoots { check_host };
        let file = |check_host| Trust::RootsIn {
            file: "ca.pem".into(),
            check_host,
        };
        for (mode, roots, expected) in [
            ("", "", (Mode::Prefer, Trust::Anybody)),
            ("disable", "", (Mode::Disable, Trust::Anybody)),
            ("prefer", "", (Mode::Prefer, Trust::Anybody)),
            ("require", "", (Mode::Require, Trust::Anybody)),
            ("verify-ca", "", (Mode::VerifyCa, system(false))),
            ("verify-full", "", (Mode::VerifyFull, system(true))),
            ("", "ca.pem", (Mode::Prefer, file(false))),
            ("require", "ca.pem", (Mode::Require, file(false))),
            ("verify-ca", "ca.pem", (Mode::VerifyCa, file(false))),
            ("verify-full", "ca.pem", (Mode::VerifyFull, file(true))),
            ("", "system", (Mode::VerifyFull, system(true))),
            ("verify-full", "system", (Mode::VerifyFull, system(true))),
        ] {
            assert_eq!(resolved(mode, roots), Ok(expected), "{mode} {roots}");
        }
        for weak in ["disable", "prefer", "require", "verify-ca"] {
            assert_eq!(resolved(weak, "system"), Err(ErrorKind::Config));
        }
    }

    fn mode_of(dsn: &str, mode: &str) -> SslMode {
        let mut config: postgres::Config = dsn.parse().unwrap();
        let parameters = TlsParameters {
            sslmode: Some(mode.to_owned()),
            sslrootcert: None,
        };
        choose(&mut config, parameters, Some(Connector::new(NoTls))).unwrap();
        config.get_ssl_mode()
    }

    #[test]
    fn verification_is_for_the_connector_and_requires_tls() {
        assert_eq!(mode_of("host=db", ""), SslMode::Require);
        assert_eq!(mode_of("host=db", "prefer"), SslMode::Prefer);
        assert_eq!(mode_of("host=db", "disable"), SslMode::Disable);
        for mode in ["require", "verify-ca", "verify-full"] {
            assert_eq!(mode_of("host=db", mode), SslMode::Require);
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_connections_through_sockets_alone_need_no_tls() {
        assert_eq!(mode_of("host=/run", "require"), SslMode::Disable);
        assert_eq!(mode_of("host=/run,/tmp", "require"), SslMode::Disable);
        assert_eq!(mode_of("host=/run,db", "require"), SslMode::Require);
        let dsn = "host=/run hostaddr=127.0.0.1";
        assert_eq!(mode_of(dsn, "require"), SslMode::Require);
    }

    #[test]
    fn an_address_without_a_name_is_the_name() {
        let mut config: postgres::Config = "hostaddr=127.0.0.1,::1".parse().unwrap();
        let own = Some(Connector::new(NoTls));
        choose(&mut config, TlsParameters::default(), own).unwrap();
        let names = ["127.0.0.1", "::1"].map(|name| Host::Tcp(name.into()));
        assert_eq!(config.get_hosts(), names);
    }
}
