//! TLS by rustls, which verifies the server as the connection string says.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use postgres::Socket;
use postgres::tls::{MakeTlsConnect, TlsConnect};
use rustls::client::ClientConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{AlertDescription, CertificateError, OtherError, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::verifier::{AnyHost, Anybody};
use super::{Connector, Trust};
use crate::error::Error;

mod verifier;

/// The protocol's name, which servers require with `sslnegotiation=direct`.
const ALPN: &[u8] = b"postgresql";

/// A connector with this trust. Fails at once if it cannot work.
pub(super) fn connector(mut trust: Trust) -> Result<Connector, Error> {
    if let Trust::RootsIn { file, .. } = &mut trust
        && let Ok(absolute) = std::path::absolute(&*file)
    {
        // It is read again, when the process may have changed its working directory.
        *file = absolute;
    }
    client_config(&trust)?;
    Ok(Connector::new(MakeConnect(Arc::new(trust))))
}

/// Reads the trusted authorities again for each connection: they may have been replaced
/// since the last one.
#[derive(Clone)]
struct MakeConnect(Arc<Trust>);

impl MakeTlsConnect<Socket> for MakeConnect {
    type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
    type TlsConnect = Connect;
    type Error = Infallible;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, Infallible> {
        Ok(Connect {
            trust: Arc::clone(&self.0),
            host: host.to_owned(),
        })
    }
}

/// A connection that is being made. It reads the authorities only after the server has agreed
/// to TLS, so that a bad file does not affect connections without TLS.
struct Connect {
    trust: Arc<Trust>,
    host: String,
}

type BoxError = Box<dyn StdError + Send + Sync>;
type Stream = <MakeConnect as MakeTlsConnect<Socket>>::Stream;

impl TlsConnect<Socket> for Connect {
    type Stream = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let mut tls = MakeRustlsConnect::new(client_config(&self.trust)?);
            let tls = MakeTlsConnect::<Socket>::make_tls_connect(&mut tls, &self.host)?;
            Ok(tls.connect(socket).await?)
        })
    }
}

fn client_config(trust: &Trust) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = versions(provider)?;
    let (roots, check_host) = match trust {
        Trust::Anybody => (None, false),
        Trust::SystemRoots { check_host } => (Some(system_roots()?), *check_host),
        Trust::RootsIn { file, check_host } => (Some(roots_in(file)?), *check_host),
    };
    let builder = match roots {
        Some(roots) if check_host => builder.with_root_certificates(roots),
        Some(roots) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyHost { roots, algorithms })),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody { algorithms })),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn versions(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::config("TLS cannot be set up").caused_by(error))
}

fn roots_in(file: &Path) -> Result<RootCertStore, Error> {
    // Without its name: after `sslrootcert= password=x` that is the password.
    let refused = |what| Error::config(format!("the file named by sslrootcert {what}"));
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refused("cannot be read as a PEM file").caused_by(error))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| refused("has a bad certificate").caused_by(error))?;
    }
    match roots.is_empty() {
        true => Err(refused("has no certificate")),
        false => Ok(roots),
    }
}

fn system_roots() -> Result<RootCertStore, Error> {
    let mut found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems have malformed ones.
    roots.add_parsable_certificates(found.certs);
    if !roots.is_empty() {
        return Ok(roots);
    }
    let error = Error::config(
        "the system has no root certificates to check the server's with: install some, such \
         as the package ca-certificates, or name a file with sslrootcert",
    );
    Err(match found.errors.pop() {
        Some(cause) => error.caused_by(cause),
        None => error,
    })
}

/// What to do about a handshake that failed.
pub(super) fn hint(cause: &(dyn StdError + 'static)) -> Option<&'static str> {
    if cause.is::<Error>() {
        return Some(
            "there is nothing to check the server's certificate with: the trusted authorities \
             cannot be read (any more); the source says why",
        );
    }
    let error = cause.downcast_ref::<io::Error>()?.get_ref()?;
    match error.downcast_ref()? {
        rustls::Error::InvalidCertificate(reason) => Some(certificate_hint(reason)),
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => Some(
            "the server and this side have no TLS parameters in common, most likely because of \
             the key of the server's certificate: RSA, ECDSA on P-256 or P-384, and Ed25519 are \
             supported, P-521, RSA-PSS and Ed448 are not; Builder::tls takes other \
             implementations",
        ),
        _ => None,
    }
}

fn certificate_hint(reason: &CertificateError) -> &'static str {
    match reason {
        CertificateError::UnknownIssuer => {
            "the server's certificate is not signed by a trusted authority: name the \
             certificate of its authority with sslrootcert"
        }
        CertificateError::BadSignature => {
            "a signature is wrong: the server's certificate is not signed by the trusted \
             authority that it names, or the server does not have its key, or a key is RSA of \
             less than 2048 or more than 8192 bits; name the certificate of the server's \
             authority with sslrootcert"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another host: connect by a name that it has, or \
             leave the name unchecked with sslmode=verify-ca"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired: the server needs another"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: check the clocks of both machines"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the algorithm of a key or a signature in the server's certificates is not \
             supported: keys must be RSA of 2048 to 8192 bits, but not RSA-PSS, ECDSA on P-256 \
             or P-384, or Ed25519, and signatures with SHA-256 or better; Builder::tls takes \
             other implementations"
        }
        CertificateError::Other(other) if is_of_old_version(other) => {
            "the server's certificate is of X.509 version 1, which cannot be verified: make one \
             of version 3, with the host as a subject alternative name (openssl makes version 1 \
             where it is given no extensions)"
        }
        _ => "the server's certificate was refused; the source says why",
    }
}

fn is_of_old_version(error: &OtherError) -> bool {
    matches!(
        error.0.downcast_ref(),
        Some(webpki::Error::UnsupportedCertVersion)
    )
}
